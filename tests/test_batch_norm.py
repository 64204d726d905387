"""BatchNorm1d: against torch in values, gradients, buffers over several steps, errors and words; its kernels against their references."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_norm as tg
from tinygrad_norm.nn import batch_norm as room
from tinygrad_norm.testing import compare_arrays

SHAPES = [(32, 64), (100, 20), (2, 3), (7, 5), (4, 3, 5), (1, 3, 5), (6, 3, 1), (3000, 40), (5, 40, 400)]


def pair(c, **options):
    """The same layer here and in torch, float64, with parameters that are not 1 and 0."""
    layers = []
    for lib in (tg, torch):
        layer = lib.nn.BatchNorm1d(c, dtype=lib.float64, **options)
        with lib.no_grad():
            for i, p in enumerate(layer.parameters()):
                p.copy_(lib.tensor(np.sin(np.arange(c) + i) + 0.5))
        layers.append(layer)
    return layers


def same_buffers(ours, theirs, tolerance=1e-13):
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, value in theirs.state_dict().items():
        assert compare_arrays(ours.state_dict()[name].numpy(), value.numpy()) < tolerance, name


def step(lib, layer, array):
    x = lib.tensor(array, requires_grad=True)
    y = layer(x)
    y.backward(lib.tensor(np.cos(np.arange(array.size)).reshape(array.shape)))
    return [y.detach().numpy(), x.grad.numpy(), *(p.grad.numpy() for p in layer.parameters())]


@pytest.mark.parametrize("shape", SHAPES)
def test_three_steps_then_eval_against_torch(shape):
    ours, theirs = pair(shape[1])
    rng = np.random.RandomState(1)
    for i in range(4):
        if i == 3:
            ours.eval(), theirs.eval()
        array = rng.standard_normal(shape) * 2 + 1
        for a, b in zip(step(tg, ours, array), step(torch, theirs, array)):
            np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)
        same_buffers(ours, theirs)
    assert repr(ours) == repr(theirs)


@pytest.mark.parametrize(
    "options",
    [
        {"momentum": None},
        {"momentum": 0.0},
        {"momentum": 1.0},
        {"momentum": 0.3},
        {"momentum": np.float32(0.25)},
        {"affine": False},
        {"bias": False},
        {"track_running_stats": False},
        {"affine": False, "track_running_stats": False},
        {"eps": 0.3},
    ],
)
@pytest.mark.parametrize("shape", [(6, 4), (3, 4, 5)])
def test_options(options, shape):
    ours, theirs = pair(4, **options)
    assert repr(ours) == repr(theirs)
    rng = np.random.RandomState(2)
    for training in (True, True, False, True, False):
        ours.train(training), theirs.train(training)
        array = rng.standard_normal(shape) * 2 + 1
        for a, b in zip(step(tg, ours, array), step(torch, theirs, array)):
            assert compare_arrays(a, b) < 1e-12
        same_buffers(ours, theirs)


@pytest.mark.parametrize("shape", [(100, 20), (8, 6, 10), (4000, 30)])
def test_float32_is_as_near_the_truth_as_torchs(shape):
    rng = np.random.RandomState(3)
    array = (rng.standard_normal(shape) * 2 + 1).astype(np.float32)
    results = []
    for lib, kind in ((tg, "float32"), (torch, "float32"), (torch, "float64")):
        layer = lib.nn.BatchNorm1d(shape[1], dtype=getattr(lib, kind))
        x = lib.tensor(array.astype(kind), requires_grad=True)
        y = layer(x)
        (y * y * y).sum().backward()
        results.append([y.detach().numpy(), x.grad.numpy(), layer.weight.grad.numpy(), layer.running_mean.numpy(), layer.running_var.numpy()])
    for ours, theirs, exact in zip(*results):
        assert ours.dtype == theirs.dtype
        scale = np.abs(exact).max()
        assert np.abs(ours - exact).max() / scale < 1e-6 + 2 * np.abs(theirs - exact).max() / scale


def test_large_mean_keeps_the_variance():
    rng = np.random.RandomState(4)
    for shape in ((5000, 16), (40, 16, 100)):
        x = (rng.standard_normal(shape) + 1e4).astype(np.float32)
        axes = (0,) if len(shape) == 2 else (0, 2)
        exact = x.astype(np.float64)
        exact = (exact - exact.mean(axes, keepdims=True)) / np.sqrt(exact.var(axes, keepdims=True) + 1e-5)
        ours = tg.nn.functional.batch_norm(tg.from_numpy(x), None, None, training=True).numpy()
        theirs = torch.nn.functional.batch_norm(torch.from_numpy(x), None, None, training=True).numpy()
        error = np.abs(ours - exact).max()
        assert error < 4e-6
        assert error <= np.abs(theirs - exact).max() / 100


def test_buffers_move_under_no_grad_and_not_in_eval():
    norm = tg.nn.BatchNorm1d(2)
    with tg.no_grad():
        norm(tg.tensor([[1.0, 2.0], [3.0, 6.0]]))
    assert norm.num_batches_tracked.item() == 1
    np.testing.assert_allclose(norm.running_mean.numpy(), [0.2, 0.4], rtol=1e-6)
    norm.eval()
    before = norm.running_mean.tolist()
    norm(tg.tensor([[5.0, 5.0]]))  # a batch of one is fine there
    assert norm.running_mean.tolist() == before
    assert norm.num_batches_tracked.item() == 1
    norm.reset_running_stats()
    assert (norm.running_mean.tolist(), norm.running_var.tolist(), norm.num_batches_tracked.item()) == ([0, 0], [1, 1], 0)


def test_the_article_s_two_heights():
    y = tg.nn.functional.batch_norm(tg.tensor([[2.0], [0.0]], dtype=tg.float64), None, None, training=True)
    assert repr(y) == repr(torch.nn.functional.batch_norm(torch.tensor([[2.0], [0.0]], dtype=torch.float64), None, None, training=True))
    assert round(y[0, 0].item(), 6) == 0.999995


@pytest.mark.parametrize("shape", [(0, 3), (2, 3, 0), (0, 3, 5)])
def test_empty(shape):
    results = []
    for lib in (tg, torch):
        norm = lib.nn.BatchNorm1d(3)
        x = lib.zeros(*shape, requires_grad=True)
        y = norm(x)
        y.sum().backward()
        results.append((tuple(y.shape), tuple(x.grad.shape), norm.weight.grad.tolist(), norm.running_mean.tolist(), norm.num_batches_tracked.item()))
    assert results[0] == results[1]


def test_a_buffer_saved_and_then_moved_on_does_not_spoil_eval_gradients():
    norm = tg.nn.BatchNorm1d(2, dtype=tg.float64).eval()
    x = tg.tensor([[1.0, 2.0], [3.0, 5.0]], dtype=tg.float64, requires_grad=True)
    y = norm(x)
    norm.train()(x.detach())
    y.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), np.full((2, 2), 1 / np.sqrt(1 + 1e-5)))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(2, 40), st.integers(1, 30), st.integers(0, 9), st.sampled_from(["float32", "float64"]), st.integers(1, 4), st.integers(0, 10**6))
def test_kernel_is_its_reference_serial_and_parallel(n, c, length, kind, chunks, seed):
    dtype = np.dtype(kind).type
    rng = np.random.RandomState(seed)
    shape = (n, c) if length == 0 else (n, c, length)
    x, dy = ((rng.standard_normal(shape) * 2 + 1).astype(dtype) for _ in range(2))
    weight, bias = (rng.standard_normal(c).astype(dtype) for _ in range(2))
    forward, backward = (room.batch_norm_forward, room.batch_norm_backward) if length == 0 else (room.batch_norm_forward_3d, room.batch_norm_backward_3d)
    results = []
    for which in ("reference", "serial", "parallel"):
        y, stats, mean, var = np.empty_like(x), np.empty((3, c), dtype), np.ones(c, dtype), np.ones(c, dtype)
        getattr(forward, which)(x, weight, bias, 0.01, y, stats, mean, var, 0.25, min(chunks, n))
        dx, dweight, dbias = np.empty_like(x), np.empty_like(weight), np.empty_like(bias)
        getattr(backward, which)(dy, x, weight, stats, dx, dweight, dbias, min(chunks, n))
        results.append([y, mean, var, dx, dweight, dbias])
    scale = 1 + max(float(np.abs(a).max()) for a in results[0])
    for other in results[1:]:
        for a, b in zip(results[0], other):
            assert np.abs(a - b).max() <= scale * (1e-5 if kind == "float32" else 1e-13)


def test_blocks_are_joined_rightly():
    """Many blocks a chunk, the last ones short: Chan's formula at work."""
    rng = np.random.RandomState(5)
    x = rng.standard_normal((100_003, 3)) * [1, 10, 0.1] + [0, 100, -5]
    y, stats, mean, var = np.empty_like(x), np.empty((3, 3)), np.zeros(3), np.zeros(3)
    for chunks in (1, 2, 7):
        room.batch_norm_forward.serial(x, np.ones(3), np.zeros(3), 1e-5, y, stats, mean, var, 1.0, chunks)
        np.testing.assert_allclose([mean, var], [x.mean(0), x.var(0, ddof=1)], rtol=1e-11)
        np.testing.assert_allclose(y, (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5), atol=1e-10)


@pytest.mark.parametrize("mean", [0, 1e4])
def test_rows_in_order_have_the_statistics_of_rows_in_any(mean):
    """Then the mean of the rows so far, about which the next ones are summed, is always behind."""
    x = (np.sort(np.random.RandomState(6).standard_normal((100_003, 3)), axis=0) + mean).astype(np.float32)
    exact = x.astype(np.float64)
    y, stats, running_mean, running_var = np.empty_like(x), np.empty((3, 3), np.float32), *np.zeros((2, 3), np.float32)
    for chunks in (1, 2):
        room.batch_norm_forward.serial(x, np.ones(3, np.float32), np.zeros(3, np.float32), 1e-5, y, stats, running_mean, running_var, 1.0, chunks)
        first, shift, rstd = stats.astype(np.float64)
        np.testing.assert_allclose(first + shift / rstd, exact.mean(0), rtol=1e-7, atol=2e-7)
        np.testing.assert_allclose(1 / rstd**2 - 1e-5, exact.var(0), rtol=1e-6)
        np.testing.assert_allclose(running_mean, exact.mean(0), rtol=1e-7, atol=2e-7)
        np.testing.assert_allclose(running_var, exact.var(0, ddof=1), rtol=1e-6)
        np.testing.assert_allclose(y, (exact - exact.mean(0)) / np.sqrt(exact.var(0) + 1e-5), atol=3e-6)


BAD = [
    (lambda lib: lib.nn.BatchNorm1d(3)(lib.ones(3)), ValueError, r"expected 2D or 3D input \(got 1D input\)"),
    (lambda lib: lib.nn.BatchNorm1d(3)(lib.ones(1, 3)), ValueError, r"Expected more than 1 value per channel when training, got input size torch.Size\(\["),
    (lambda lib: lib.nn.BatchNorm1d(3)(lib.ones(1, 3, 1)), ValueError, "Expected more than 1 value per channel"),
    (lambda lib: lib.nn.BatchNorm1d(3)(lib.ones(2, 4)), RuntimeError, "running_mean should contain 4 elements not 3"),
    (lambda lib: lib.nn.BatchNorm1d(3)(lib.ones(2, 3, dtype=lib.float64)), RuntimeError, "mixed dtype"),
    (lambda lib: lib.nn.BatchNorm1d(3)(lib.ones(2, 3, dtype=lib.int64)), RuntimeError, None),
    (lambda lib: lib.nn.BatchNorm1d(-1), RuntimeError, "negative"),
    (lambda lib: lib.nn.BatchNorm1d("3"), TypeError, None),
    (lambda lib: lib.nn.BatchNorm1d(2.5), TypeError, None),
    (lambda lib: lib.nn.functional.batch_norm(lib.ones(2, 3), None, None), RuntimeError, "running_mean must be defined in evaluation mode"),
    (lambda lib: lib.nn.functional.batch_norm(lib.ones(2, 3), lib.zeros(3), None, training=True), ValueError, "must either both be None or neither"),
    (lambda lib: lib.nn.functional.batch_norm(lib.ones(2, 3), None, None, lib.ones(4), training=True), RuntimeError, "weight should contain 3 elements not 4"),
    (lambda lib: lib.nn.functional.batch_norm(lib.ones(2, 3), None, None, training=True, eps=0.0), ValueError, "eps must be positive during training"),
    (lambda lib: lib.nn.functional.batch_norm(lib.ones(2, 3), lib.zeros(3), lib.ones(3), eps=-1.0), ValueError, "eps must be non-negative"),
]


@pytest.mark.parametrize("number", range(len(BAD)))
def test_errors_are_torchs(number):
    call, error, words = BAD[number]
    for lib in (torch, tg):
        with pytest.raises(error, match=words):
            call(lib)


@pytest.mark.parametrize("shape", [(1, 3), (3,), (2, 4), (2, 3, 1, 1)])
def test_a_failed_call_changes_no_buffer(shape):
    norm = tg.nn.BatchNorm1d(3, momentum=None)
    before = {k: v.tolist() for k, v in norm.state_dict().items()}
    with pytest.raises((ValueError, RuntimeError)):
        norm(tg.ones(*shape))
    assert {k: v.tolist() for k, v in norm.state_dict().items()} == before


def test_batch_of_one_says_what_to_do():
    with pytest.raises(ValueError, match=r"drop_last=True.*eval\(\).*LayerNorm"):
        tg.nn.BatchNorm1d(3)(tg.ones(1, 3))


def test_third_order_raises():
    x = tg.randn(5, 4, dtype=tg.float64, requires_grad=True)
    y = tg.nn.functional.batch_norm(x, None, None, training=True).pow(3).sum()
    for _ in range(2):
        (g,) = tg.autograd.grad(y, x, create_graph=True)
        y = (g * g).sum()
    with pytest.raises(RuntimeError, match="once differentiable"):
        tg.autograd.grad(y, x)


def test_running_statistics_have_no_gradient():
    for lib in (tg, torch):
        for training in (False, True):
            mean, var = lib.zeros(3, requires_grad=True), lib.ones(3)
            with pytest.raises(RuntimeError, match="not differentiable with respect to argument 'running_mean'"):
                lib.nn.functional.batch_norm(lib.ones(2, 3), mean, var, training=training)
            assert not mean.any()
            with lib.no_grad():
                lib.nn.functional.batch_norm(lib.ones(2, 3), mean, var, training=training)


@pytest.mark.parametrize("wrong", ["running_mean", "running_var"])
def test_running_statistics_that_cannot_be_written_are_refused_before_one_is(wrong):
    """torch writes all channels to the one place in memory."""
    stats = {"running_mean": tg.zeros(3), "running_var": tg.ones(3), wrong: tg.ones(1).expand(3)}
    with pytest.raises(RuntimeError, match="the tensor written to was expanded"):
        tg.nn.functional.batch_norm(tg.randn(4, 3), **stats, training=True)
    assert stats["running_mean"].tolist() == [0 if wrong == "running_var" else 1] * 3
    tg.nn.functional.batch_norm(tg.randn(4, 3), **stats)


def test_what_diverges_in_eval_is_no_warning():
    """Here as in torch, infinity and NaN are answers (a warning fails a test of this project)."""
    for x, mean, var, weight in (([1e38], [0.0], [1.0], [1e3]), ([np.inf], [np.inf], [1.0], [1.0]), ([1.0], [0.0], [-1.0], [1.0])):
        results = []
        for lib in (tg, torch):
            arguments = [lib.tensor(values, dtype=lib.float32) for values in ([x], mean, var, weight)]
            results.append(lib.nn.functional.batch_norm(*arguments).numpy())
        np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("shape", [(2048, 20), (2, 4, 65536)])
def test_constant_channels_are_beta_whatever_they_hold(shape):
    """A mean of float32 sums is some roundings off, and Σc² − n r² about it is below 0 at times: not a root of that."""
    values = np.linspace(1e4, 3e5, 40).astype(np.float32)
    for v in values:
        y = tg.nn.functional.batch_norm(tg.from_numpy(np.full(shape, v)), None, None, training=True).numpy()
        assert np.abs(y).max() < 0.1
    held = np.full((64, 1), np.nan, np.float32)
    assert np.isnan(tg.nn.functional.batch_norm(tg.from_numpy(held), None, None, training=True).numpy()).all()


def test_a_large_mean_over_many_rows():
    x = (np.random.RandomState(0).randn(40_000, 4) + 1e7).astype(np.float32)
    exact = x.astype(np.float64)
    exact = (exact - exact.mean(0)) / np.sqrt(exact.var(0) + 1e-5)
    y = tg.nn.functional.batch_norm(tg.from_numpy(x), None, None, training=True).numpy()
    assert np.abs(y - exact).max() < 1e-5

"""GroupNorm and InstanceNorm1d: against torch in values, gradients, buffers over several steps, errors and words; their kernels."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_norm as tg
from tinygrad_norm.nn.group_norm import group_norm_backward, group_norm_forward
from tinygrad_norm.testing import compare_arrays

SHAPES = [((4, 6), 2), ((4, 6), 1), ((1, 6, 5), 3), ((3, 6, 5), 6), ((2, 4, 3, 2), 2), ((2, 3, 1), 1), ((200, 16, 40), 4), ((2, 4, 5000), 2), ((3000, 32), 8)]
TRACKING = {"track_running_stats": True}


def pair(name, *args, **options):
    """The same layer here and in torch, float64, with parameters that are not 1 and 0."""
    layers = []
    for lib in (tg, torch):
        layer = getattr(lib.nn, name)(*args, dtype=lib.float64, **options)
        with lib.no_grad():
            for i, p in enumerate(layer.parameters()):
                p.copy_(lib.tensor(np.sin(np.arange(p.numel()) + i) + 0.5))
        layers.append(layer)
    return layers


def step(lib, layer, array):
    x = lib.tensor(array, requires_grad=True)
    y = layer(x)
    y.backward(lib.tensor(np.cos(np.arange(array.size)).reshape(array.shape)))
    grads = [p.grad.numpy().copy() for p in layer.parameters()]
    layer.zero_grad()
    return [y.detach().numpy(), x.grad.numpy(), *grads]


def same_buffers(ours, theirs):
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, value in theirs.state_dict().items():
        assert compare_arrays(ours.state_dict()[name].numpy(), value.numpy()) < 1e-13, name


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"bias": False}, {"eps": 0.3}], ids=str)
@pytest.mark.parametrize(("shape", "groups"), SHAPES)
def test_group_norm_against_torch(shape, groups, options):
    ours, theirs = pair("GroupNorm", groups, shape[1], **options)
    assert repr(ours) == repr(theirs)
    same_buffers(ours, theirs)
    array = np.random.RandomState(1).standard_normal(shape) * 2 + 1
    for a, b in zip(step(tg, ours, array), step(torch, theirs, array)):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    "options",
    [{}, {"affine": True}, {"affine": True, "bias": False}, TRACKING, {"affine": True, **TRACKING}, {"momentum": None, **TRACKING}, {"momentum": 0.3, "eps": 0.3, **TRACKING}],
    ids=str,
)
@pytest.mark.parametrize("shape", [(4, 3, 5), (1, 3, 2), (3, 5), (20, 3, 2000)])
def test_instance_norm_over_steps_against_torch(shape, options):
    ours, theirs = pair("InstanceNorm1d", 3, **options)
    assert repr(ours) == repr(theirs)
    rng = np.random.RandomState(2)
    for training in (True, True, False, True, False):
        ours.train(training), theirs.train(training)
        array = rng.standard_normal(shape) * 2 + 1
        for a, b in zip(step(tg, ours, array), step(torch, theirs, array)):
            np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)
        same_buffers(ours, theirs)


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (2, 3, 2, 2)])
def test_functional_instance_norm_takes_any_spatial_axes(shape):
    rng = np.random.RandomState(3)
    x, mean, var = rng.standard_normal(shape), rng.standard_normal(3), rng.uniform(1, 2, 3)
    for use_input in (False, True):
        if use_input and len(shape) == 2:
            continue  # one value a channel
        results = []
        for lib in (tg, torch):
            running = lib.tensor(mean.copy()), lib.tensor(var.copy())
            y = lib.nn.functional.instance_norm(lib.tensor(x), *running, use_input_stats=use_input, momentum=0.2)
            results.append([y.numpy(), *(r.numpy() for r in running)])
        for a, b in zip(*results):
            assert compare_arrays(a, b) < 1e-14


@pytest.mark.parametrize("shape", [(100, 20), (8, 6, 10), (50, 8, 300)])
def test_float32_is_as_near_the_truth_as_torchs(shape):
    array = (np.random.RandomState(3).standard_normal(shape) * 2 + 1).astype(np.float32)
    results = []
    for lib, kind in ((tg, "float32"), (torch, "float32"), (torch, "float64")):
        layer = lib.nn.GroupNorm(2, shape[1], dtype=getattr(lib, kind))
        x = lib.tensor(array.astype(kind), requires_grad=True)
        y = layer(x)
        (y * y * y).sum().backward()
        results.append([y.detach().numpy(), x.grad.numpy(), layer.weight.grad.numpy(), layer.bias.grad.numpy()])
    for ours, theirs, exact in zip(*results):
        assert ours.dtype == theirs.dtype
        scale = np.abs(exact).max()
        assert np.abs(ours - exact).max() / scale < 1e-6 + 2 * np.abs(theirs - exact).max() / scale


@pytest.mark.parametrize(("shape", "groups"), [((8, 16, 100), 4), ((8, 16, 100), 16), ((64, 768), 1), ((2, 4, 40000), 1)])
def test_large_mean_keeps_the_variance(shape, groups):
    rng = np.random.RandomState(4)
    x = (rng.standard_normal(shape) + 1e4).astype(np.float32)
    exact = x.astype(np.float64).reshape(shape[0], groups, -1)
    exact = ((exact - exact.mean(2, keepdims=True)) / np.sqrt(exact.var(2, keepdims=True) + 1e-5)).reshape(shape)
    errors = []
    for lib in (tg, torch):
        norm = (lambda v: lib.nn.functional.instance_norm(v)) if groups == shape[1] else (lambda v: lib.nn.functional.group_norm(v, groups))
        errors.append(np.abs(norm(lib.from_numpy(x)).numpy() - exact).max())
    assert errors[0] < 2e-6
    assert errors[0] < errors[1] / 100


@pytest.mark.parametrize("momentum", [None, 0.1])
def test_running_statistics_take_what_is_infinite_without_a_warning(momentum):
    for lib in (tg, torch):
        norm = lib.nn.InstanceNorm1d(1, momentum=momentum, track_running_stats=True)
        norm(lib.tensor([[[np.inf, 1.0]], [[-np.inf, 1.0]]]))
        assert np.isnan([norm.running_mean.item(), norm.running_var.item()]).all()


def test_running_statistics_at_a_large_mean():
    x = (np.random.RandomState(5).standard_normal((6, 2, 500)) + 1e4).astype(np.float32)
    norm = tg.nn.InstanceNorm1d(2, momentum=1.0, track_running_stats=True)
    norm(tg.from_numpy(x))
    exact = x.astype(np.float64)
    np.testing.assert_allclose(norm.running_mean.numpy(), exact.mean((0, 2)), rtol=1e-6)
    np.testing.assert_allclose(norm.running_var.numpy(), exact.var(2, ddof=1).mean(0), rtol=1e-5)


@pytest.mark.parametrize("wrong", ["running_mean", "running_var"])
def test_running_statistics_that_cannot_be_moved_are_refused_before_one_is(wrong):
    for lib in (tg, torch):
        for t, words in (lib.ones(1).expand(3), "clone"), (lib.ones(3, requires_grad=True), "not differentiable with respect to argument"):
            stats = {"running_mean": lib.zeros(3), "running_var": lib.ones(3), wrong: t}
            with pytest.raises(RuntimeError, match=words):
                lib.nn.functional.instance_norm(lib.randn(2, 3, 4), **stats)
            assert lib is torch or stats["running_mean"].tolist() == [0 if wrong == "running_var" else 1] * 3


@pytest.mark.parametrize("layout", [lambda a: a.transpose(2, 1, 0).copy().transpose(2, 1, 0), lambda a: np.repeat(a, 2, 2)[:, :, ::2], lambda a: np.broadcast_to(a[:1], a.shape)])
def test_any_memory_layout(layout):
    base = layout(np.random.RandomState(6).standard_normal((4, 6, 5)))
    x, z = tg.Tensor(base, True), torch.tensor(np.array(base), requires_grad=True)
    for lib, leaf in ((tg, x), (torch, z)):
        lib.nn.functional.group_norm(leaf, 3).sum(0).pow(2).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), z.grad.numpy(), atol=1e-12)


@pytest.mark.parametrize("shape", [(0, 4, 3), (2, 4, 0), (0, 4)])
def test_empty(shape):
    for norm in (tg.nn.GroupNorm(2, 4), tg.nn.InstanceNorm1d(4, affine=True, track_running_stats=True)):
        if len(shape) == 2 and isinstance(norm, tg.nn.InstanceNorm1d):
            continue
        x = tg.zeros(*shape, requires_grad=True)
        y = norm(x)
        (g,) = tg.autograd.grad(y.sum(), x, create_graph=True)
        g.sum().backward()
        assert tuple(y.shape) == shape == tuple(g.shape)
        assert norm.weight.grad.tolist() == [0.0] * 4
    assert norm.running_mean.tolist() == [0.0] * 4  # torch's are NaN after an empty batch
    assert norm.running_var.tolist() == [1.0] * 4


def test_constant_groups_and_nan():
    x = tg.ones(2, 4, 3, dtype=tg.float64)
    x[1, 0, 0] = float("nan")
    x[1, 3, 0] = 2.0
    norm = tg.nn.GroupNorm(2, 4, dtype=tg.float64)
    with tg.no_grad():
        norm.bias.copy_(tg.arange(4))
    y = norm(x).detach().numpy()
    assert (y[0] == np.arange(4)[:, None]).all()  # a constant group gives β
    assert np.isnan(y[1, :2]).all()
    assert np.isfinite(y[1, 2:]).all()  # NaN poisons its own group only


@settings(max_examples=60)
@given(
    st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(1, 40), st.sampled_from(["float32", "float64"]), st.integers(0, 10**6), st.sampled_from([1e-5, 0.3])
)
def test_kernel_is_its_reference_serial_and_parallel(n, groups, channels, length, kind, seed, eps):
    dtype = np.dtype(kind).type
    rng = np.random.RandomState(seed)
    shape = (n, groups, channels, length)
    x, dy = ((rng.standard_normal(shape) * 2 + 1).astype(dtype) for _ in range(2))
    weight, bias = (rng.standard_normal(shape[1:3]).astype(dtype) for _ in range(2))
    results = []
    for which in ("reference", "serial", "parallel"):
        y, stats = np.empty_like(x), np.empty((n, groups, 4), dtype)
        getattr(group_norm_forward, which)(x, weight, bias, eps, y, stats)
        dx, dweight, dbias = np.empty_like(x), np.empty_like(weight), np.empty_like(bias)
        getattr(group_norm_backward, which)(dy, x, weight, stats, dx, dweight, dbias)
        results.append([y, dx, dweight, dbias, stats[:, :, 2:]])
    bound = 1 + max(float(np.abs(a).max()) for a in results[0])
    for other in results[1:]:
        for a, b in zip(results[0], other):
            assert np.abs(a - b).max() <= bound * (4e-6 if kind == "float32" else 1e-14)


def test_the_same_bits_with_any_number_of_threads():
    rng = np.random.RandomState(7)
    x, dy = (rng.standard_normal((30, 4, 2, 500)).astype(np.float32) for _ in range(2))
    weight, stats, y = np.ones((4, 2), np.float32), np.empty((30, 4, 4), np.float32), np.empty_like(x)
    results, before = set(), tg.get_num_threads()
    for threads in (1, before, before):
        tg.set_num_threads(threads)
        group_norm_forward.parallel(x, weight, weight, 1e-5, y, stats)
        dx, dweight, dbias = np.empty_like(x), np.empty_like(weight), np.empty_like(weight)
        group_norm_backward.parallel(dy, x, weight, stats, dx, dweight, dbias)
        results.add(b"".join(a.tobytes() for a in (y, stats, dx, dweight, dbias)))
    tg.set_num_threads(before)
    assert len(results) == 1


def test_third_order_raises():
    for norm in (lambda v: tg.nn.functional.group_norm(v, 2), tg.nn.functional.instance_norm):
        x = tg.randn(3, 4, 5, dtype=tg.float64, requires_grad=True)
        y = norm(x).pow(3).sum()
        for _ in range(2):
            (g,) = tg.autograd.grad(y, x, create_graph=True)
            y = (g * g).sum()
        with pytest.raises(RuntimeError, match="once differentiable"):
            tg.autograd.grad(y, x)


def test_reset_and_kinds():
    norm = tg.nn.GroupNorm(1, 3)
    with tg.no_grad():
        norm.weight.fill_(7), norm.bias.fill_(7)
    norm.reset_parameters()
    assert (norm.weight.tolist(), norm.bias.tolist()) == ([1, 1, 1], [0, 0, 0])
    assert not isinstance(tg.nn.InstanceNorm1d(3), tg.nn.BatchNorm1d)  # what freezes all batch norms must not find it
    tracking = tg.nn.InstanceNorm1d(2, track_running_stats=True)
    tracking(tg.randn(3, 2, 4))
    tracking.reset_running_stats()
    assert (tracking.running_mean.tolist(), tracking.running_var.tolist()) == ([0, 0], [1, 1])


BAD = [
    (lambda lib: lib.nn.GroupNorm(3, 4), ValueError, r"num_channels \(4\) must be divisible by num_groups \(3\)"),
    (lambda lib: lib.nn.GroupNorm(2, 4)(lib.ones(2, 6)), RuntimeError, "Expected weight to be a vector of size equal to the number of channels in input"),
    (lambda lib: lib.nn.functional.group_norm(lib.ones(2, 5), 2), RuntimeError, r"divisible by num_groups, but got input of shape \[2, 5\] and num_groups=2"),
    (lambda lib: lib.nn.functional.group_norm(lib.ones(2), 2), RuntimeError, "Expected at least 2 dimensions"),
    (lambda lib: lib.nn.functional.group_norm(lib.ones(2, 4), -1), RuntimeError, "num groups to be greater than 0, got -1"),
    (lambda lib: lib.nn.functional.group_norm(lib.ones(2, 4), 2, None, lib.ones(3)), RuntimeError, "Expected bias to be a vector"),
    (lambda lib: lib.nn.functional.group_norm(lib.ones(1, 4), 4), ValueError, "Expected more than 1 value per channel when training"),
    (lambda lib: lib.nn.functional.group_norm(lib.ones(2, 4, dtype=lib.int64), 2), RuntimeError, None),
    (lambda lib: lib.nn.GroupNorm(2, 4)(lib.ones(2, 4, dtype=lib.float64)), RuntimeError, "mixed dtype"),
    (lambda lib: lib.nn.InstanceNorm1d(4)(lib.ones(4)), ValueError, r"expected 2D or 3D input \(got 1D input\)"),
    (lambda lib: lib.nn.InstanceNorm1d(4)(lib.ones(1, 2, 3, 4)), ValueError, r"expected 2D or 3D input \(got 4D input\)"),
    (lambda lib: lib.nn.InstanceNorm1d(4, affine=True)(lib.ones(2, 3, 5)), ValueError, r"size at dim=1 to match num_features \(4\), but got: 3"),
    (lambda lib: lib.nn.InstanceNorm1d(4)(lib.ones(2, 4, 1)), ValueError, "Expected more than 1 spatial element when training"),
    (lambda lib: lib.nn.functional.instance_norm(lib.ones(2, 4)), ValueError, "Expected more than 1 spatial element when training"),
    (lambda lib: lib.nn.functional.instance_norm(lib.ones(2, 4, 3), use_input_stats=False), RuntimeError, "running_mean and running_var to be defined"),
    (lambda lib: lib.nn.functional.instance_norm(lib.ones(2, 4, 3), lib.zeros(4)), ValueError, "either both be None or neither"),
    (lambda lib: lib.nn.InstanceNorm1d(4, affine=True)(lib.ones(2, 4, 5, dtype=lib.float64)), RuntimeError, "mixed dtype"),
]


@pytest.mark.parametrize("number", range(len(BAD)))
def test_errors_are_torchs(number):
    call, error, words = BAD[number]
    for lib in (torch, tg):
        with pytest.raises(error, match=words):
            call(lib)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: tg.nn.GroupNorm(2.0, 4), TypeError, "num_groups must be an integer"),
        (lambda: tg.nn.GroupNorm(0, 4), ValueError, "num_groups must be at least 1"),
        (lambda: tg.nn.GroupNorm(2, 4, eps=-1.0), ValueError, "GroupNorm: eps"),
        (lambda: tg.nn.functional.group_norm(tg.ones(2, 4), True), TypeError, "num_groups must be an integer"),
        (lambda: tg.nn.InstanceNorm1d(2.5), TypeError, "InstanceNorm1d: num_features"),
        (lambda: tg.nn.GroupNorm(2, 4)([1.0]), TypeError, "expected a Tensor; got list"),
    ],
)
def test_errors_of_our_own(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_a_failed_call_changes_no_buffer_and_unused_num_features_warn():
    norm = tg.nn.InstanceNorm1d(3, track_running_stats=True)
    with pytest.raises(ValueError, match="spatial"):
        norm(tg.ones(2, 3, 1))
    assert norm.running_mean.tolist() == [0, 0, 0]
    for lib in (tg, torch):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            lib.nn.InstanceNorm1d(4)(lib.ones(2, 3, 5))
        assert len(caught) == 1
        assert "num_features" in str(caught[0].message)

"""LayerNormalization against Keras itself, where that is installed, and against its formula; the layer written by hand against torch's."""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import tinygrad_norm as tg
from tinygrad_norm.testing import compare_arrays

# (arguments of the layer, shape of the input, element type)
KERAS_CASES = [
    ({}, (6, 5), "float64"),
    ({}, (6, 5), "float32"),
    ({}, (3, 4, 5), "float64"),
    ({"axis": 1}, (3, 4, 5), "float64"),
    ({"axis": -2}, (3, 4, 5), "float32"),
    ({"axis": 0}, (6, 5), "float64"),
    ({"axis": [1, 2]}, (3, 4, 5), "float64"),
    ({"axis": [2, 1]}, (3, 4, 5), "float64"),
    ({"axis": [-1, -3]}, (3, 4, 5), "float64"),
    ({"axis": [0, 2]}, (3, 4, 5), "float32"),
    ({"epsilon": 0.3}, (6, 5), "float64"),
    ({"center": False}, (6, 5), "float64"),
    ({"scale": False}, (3, 4, 5), "float64"),
    ({"axis": [1, 3], "center": False, "scale": False, "epsilon": 1e-6}, (2, 3, 4, 5), "float64"),
]
# Keras 3.15 hands its torch backend every run of neighbouring axes, and torch refuses those that are not the last; its NumPy backend
# computes all, without gradients. So values are the latter's, and gradients the former's where it has them. Both compute in float32, also
# where the layer is float64; that ours is right to the last digit is shown against the formula below, and in testing.CASES.
AS_FLOAT32 = 3e-6
KERAS = """
import json, os, sys
import numpy as np
import keras

folder, backend = sys.argv[1], keras.backend.backend()
given = np.load(os.path.join(folder, "in.npz"))
results = {}
for i, (options, shape, kind) in enumerate(json.load(open(os.path.join(folder, "cases.json")))):
    layer = keras.layers.LayerNormalization(dtype=kind, **options)
    layer.build(tuple(shape))
    for j, weight in enumerate(layer.trainable_weights):
        weight.assign((np.sin(np.arange(np.prod(weight.shape))).reshape(weight.shape) + 0.5 + j).astype(kind))
        results[f"{i} {weight.name} shape"] = np.array(tuple(weight.shape))
    x = keras.ops.convert_to_tensor(given[f"x{i}"])
    if backend == "numpy":
        results[f"{i} y"] = layer(x)
        continue
    x.requires_grad_()
    try:
        y = layer(x)
    except RuntimeError as error:
        assert "normalized_shape" in str(error)
        continue
    results[f"{i} y"] = y.detach().numpy()
    y.backward(keras.ops.convert_to_tensor(given[f"dy{i}"]))
    results[f"{i} dx"] = x.grad.numpy()
    for weight in layer.trainable_weights:
        results[f"{i} d{weight.name}"] = weight.value.grad.numpy()

if backend == "torch":
    x, mask = given["batch"], given["mask"]
    for name, options in (("batch", {}), ("masked", {"mask": keras.ops.convert_to_tensor(mask)})):
        layer = keras.layers.BatchNormalization(dtype="float64")
        results[f"{name} y"] = layer(keras.ops.convert_to_tensor(x), training=True, **options).detach().numpy()
        results |= {f"{name} {variable.name}": variable.numpy() for variable in layer.variables}
    rms = keras.layers.RMSNormalization(dtype="float64")
    results["rms y"] = rms(keras.ops.convert_to_tensor(x)).detach().numpy()
    results["rms names"] = np.array([w.name for w in rms.trainable_weights])
    results["epsilons"] = np.array([keras.layers.LayerNormalization().epsilon, layer.epsilon, rms.epsilon])
np.savez(os.path.join(folder, backend + ".npz"), **results)
"""


@pytest.fixture(scope="module")
def keras_results(tmp_path_factory):
    """What Keras makes of the cases, in processes of its own: its import takes seconds, and settings of the whole process."""
    if importlib.util.find_spec("keras") is None:
        pytest.skip("keras is not installed: pip install keras")
    folder = tmp_path_factory.mktemp("keras")
    rng = np.random.RandomState(0)
    arrays = {"batch": rng.standard_normal((4, 5, 3)) * 2 + 1, "mask": np.arange(5) < np.array([5, 3, 0, 1])[:, None]}
    for i, (_, shape, kind) in enumerate(KERAS_CASES):
        arrays[f"x{i}"], arrays[f"dy{i}"] = ((rng.standard_normal(shape) * 2 + 1).astype(kind) for _ in range(2))
    np.savez(folder / "in.npz", **arrays)
    (folder / "cases.json").write_text(json.dumps(KERAS_CASES))
    for backend in ("numpy", "torch") if importlib.util.find_spec("jax") else ("torch",):  # Keras' NumPy backend takes its FFT from JAX
        settings = {**os.environ, "KERAS_BACKEND": backend, "KERAS_HOME": str(folder)}
        done = subprocess.run([sys.executable, "-c", KERAS, str(folder)], env=settings, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        arrays |= np.load(folder / f"{backend}.npz")
    return arrays


@pytest.mark.parametrize("number", range(len(KERAS_CASES)), ids=lambda i: "{} {} {}".format(*KERAS_CASES[i]))
def test_against_keras(keras_results, number):
    options = KERAS_CASES[number][0]
    theirs = {k.partition(" ")[2]: v for k, v in keras_results.items() if k.startswith(f"{number} ")}
    x = tg.tensor(keras_results[f"x{number}"], requires_grad=True)
    norm = tg.nn.LayerNormalization(**options)
    norm.build(x.shape, x.dtype)
    ours = {}
    for j, (name, p) in enumerate(norm.named_parameters()):
        p._data[...] = np.sin(np.arange(p.numel())).reshape(p.shape) + 0.5 + j
        ours[f"{name} shape"] = np.array(p.shape)
    y = norm(x)
    y.backward(tg.tensor(keras_results[f"dy{number}"]))
    ours |= {"y": y.detach().numpy(), "dx": x.grad.numpy()} | {f"d{name}": p.grad.numpy() for name, p in norm.named_parameters()}
    if "dx" in theirs:
        assert ours.keys() == theirs.keys()
    else:
        assert options["axis"] in (0, 1, -2)  # Keras' torch backend cannot; without jax only the weights' shapes are compared
    for name, value in theirs.items():
        assert compare_arrays(ours[name], value) < AS_FLOAT32, name


def test_the_tables_of_conventions_say_what_keras_does(keras_results):
    assert keras_results["epsilons"].tolist() == [1e-3, 1e-3, 1e-6]
    assert tg.nn.LayerNormalization().epsilon == 1e-3
    x = keras_results["batch"]  # the channels last
    np.testing.assert_allclose(keras_results["batch moving_mean"], 0.01 * x.mean((0, 1)), rtol=1e-6)  # 0.99 is the old value's weight
    np.testing.assert_allclose(keras_results["batch moving_variance"], 0.99 + 0.01 * x.var((0, 1)), rtol=1e-6)  # biased
    assert {k for k in keras_results if k.startswith("batch ")} >= {"batch gamma", "batch beta"}
    assert keras_results["rms names"].tolist() == ["scale"]
    ours = tg.nn.functional.rms_norm(tg.tensor(x), (3,), eps=1e-6)
    assert compare_arrays(ours.numpy(), keras_results["rms y"]) < AS_FLOAT32


def test_masked_batch_norm_against_keras(keras_results):
    """The same statistics; what does not count Keras normalizes as well, and here it is 0."""
    x, mask = keras_results["batch"], keras_results["mask"]
    norm = tg.nn.MaskedBatchNorm1d(3, eps=1e-3, momentum=0.01, dtype=tg.float64)
    y = norm(tg.tensor(x).transpose(1, 2), tg.tensor(mask)).transpose(1, 2).detach().numpy()
    assert compare_arrays(y[mask], keras_results["masked y"][mask]) < AS_FLOAT32
    np.testing.assert_allclose(norm.running_mean.numpy(), keras_results["masked moving_mean"], rtol=1e-6)
    n = mask.sum()
    biased = 0.99 + (norm.running_var.numpy() - 0.99) * (n - 1) / n
    np.testing.assert_allclose(biased, keras_results["masked moving_variance"], rtol=1e-6)


# -- LayerNormalization without Keras ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [-1, 0, 1, (0, 1), [2, 0], [0, 1, 2], [-1, 1]])
def test_any_axes_against_the_formula(axis):
    rng = np.random.RandomState(1)
    x = rng.standard_normal((3, 4, 5)) * 2 + 1
    over = tuple(sorted(a % 3 for a in ([axis] if isinstance(axis, int) else axis)))
    norm = tg.nn.LayerNormalization(axis)
    y = norm(tg.tensor(x))
    assert tuple(norm.gamma.shape) == tuple(norm.beta.shape) == tuple(x.shape[a] for a in over)
    exact = (x - x.mean(over, keepdims=True)) / np.sqrt(x.var(over, keepdims=True) + 1e-3)
    assert compare_arrays(y.detach().numpy(), exact) < 1e-14
    norm.gamma._data[...] = rng.standard_normal(norm.gamma.shape)
    wide = norm.gamma.detach().numpy().reshape([n if a in over else 1 for a, n in enumerate(x.shape)])
    assert compare_arrays(norm(tg.tensor(x)).detach().numpy(), exact * wide) < 1e-14


def test_the_last_axis_is_torchs_layer_norm():
    x = tg.randn(4, 6)
    norm, other = tg.nn.LayerNormalization(), tg.nn.LayerNorm(6, eps=1e-3)
    assert norm(x).tolist() == other(x).tolist()


def test_it_is_built_at_the_first_call():
    norm = tg.nn.LayerNormalization(axis=[1, 2])
    assert (norm.built, norm.gamma, norm.beta, list(norm.parameters()), dict(norm.state_dict())) == (False, None, None, [], {})
    norm(tg.randn(2, 3, 5, dtype=tg.float64))
    assert norm.built
    assert norm.gamma.dtype is tg.float64
    assert list(norm.state_dict()) == ["gamma", "beta"]
    first = norm.gamma
    norm(tg.randn(7, 3, 5, dtype=tg.float64))  # another batch
    assert norm.gamma is first
    with pytest.raises(RuntimeError, match="Expected weight to be of same shape as normalized_shape"):
        norm(tg.randn(2, 4, 5, dtype=tg.float64))
    with pytest.raises(RuntimeError, match="built already"):
        norm.build((2, 4, 5))
    plain = tg.nn.LayerNormalization(center=False, scale=False)
    plain(tg.randn(2, 3))
    assert plain.built
    assert list(plain.parameters()) == []
    other = tg.nn.LayerNormalization(axis=[1, 2], dtype=tg.float64)
    other.build((None, 3, 5))  # as Keras: the batch is not known yet
    other.load_state_dict(norm.state_dict())
    assert repr(other) == "LayerNormalization(axis=[1, 2], epsilon=0.001, center=True, scale=True)"


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: tg.nn.LayerNormalization(1.5), TypeError, "axis must be an int or a sequence of ints"),
        (lambda: tg.nn.LayerNormalization("1"), TypeError, "axis must be an int or a sequence of ints"),
        (lambda: tg.nn.LayerNormalization([]), TypeError, "axis must be an int or a sequence of ints"),
        (lambda: tg.nn.LayerNormalization(True), TypeError, "axis must be an int or a sequence of ints"),
        (lambda: tg.nn.LayerNormalization(epsilon=-1), ValueError, "LayerNormalization: eps"),
        (lambda: tg.nn.LayerNormalization(dtype=tg.int64), TypeError, "floating point"),
        (lambda: tg.nn.LayerNormalization(2)(tg.ones(3, 4)), ValueError, r"axis 2 is out of bounds for input of shape \(3, 4\), which has 2 axes"),
        (lambda: tg.nn.LayerNormalization([1, -1])(tg.ones(3, 4)), ValueError, r"axis=\[1, -1\] names an axis of input of shape \(3, 4\) twice"),
        (lambda: tg.nn.LayerNormalization()(tg.ones(3, 4, dtype=tg.int64)), TypeError, "floating point"),
        (lambda: tg.nn.LayerNormalization()([1.0]), TypeError, "expected a Tensor; got list"),
        (lambda: tg.nn.functional.layer_normalization(tg.ones(2, 3), axis=0.5), TypeError, "axis must be an int"),
        (lambda: tg.nn.UnbiasedLayerNorm(1), ValueError, "at least 2"),
        (lambda: tg.nn.UnbiasedLayerNorm(2.5), TypeError, "features must be an integer"),
        (lambda: tg.nn.UnbiasedLayerNorm(2)(tg.ones(3, 1)), ValueError, "at least 2 elements"),
    ],
)
def test_errors(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_a_failed_first_call_builds_nothing():
    norm = tg.nn.LayerNormalization(axis=2)
    with pytest.raises(ValueError, match="out of bounds"):
        norm(tg.ones(3, 4))
    assert not norm.built
    norm(tg.ones(2, 3, 4))
    assert norm.gamma.tolist() == [1] * 4


# -- The layer written by hand --------------------------------------------------------------------------------------------------------------


class CustomLayerNorm(torch.nn.Module):
    """As tutorials have it."""

    def __init__(self, features, eps=1e-6):
        super().__init__()
        self.gamma = torch.nn.Parameter(torch.ones(features))
        self.beta = torch.nn.Parameter(torch.zeros(features))
        self.eps = eps

    def forward(self, x):
        mean = x.mean(dim=-1, keepdim=True)
        std = x.std(dim=-1, keepdim=True)
        return self.gamma * (x - mean) / (std + self.eps) + self.beta


@pytest.mark.parametrize("eps", [1e-6, 0.3])
@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 5), (7,)])
def test_unbiased_layer_norm_is_the_tutorials_in_torch(shape, eps):
    x = np.random.RandomState(2).standard_normal(shape) * 2 + 1
    report = tg.autograd.compare_with_torch(tg.nn.UnbiasedLayerNorm(shape[-1], eps).double(), x, torch_counterpart=CustomLayerNorm(shape[-1], eps).double())
    assert report.ok, report


def test_it_is_not_layer_norm():
    x = tg.randn(4, 6, dtype=tg.float64)
    ratio = tg.nn.UnbiasedLayerNorm(6, eps=0.0, dtype=tg.float64)(x) / tg.nn.LayerNorm(6, eps=0.0, dtype=tg.float64)(x)
    np.testing.assert_allclose(ratio.detach().numpy(), np.sqrt(5 / 6), rtol=1e-13)
    faint = x * 1e-4  # as large as √eps / 30: eps inside of the root wins there, and outside it does nothing
    unbiased, layer = (norm(faint).detach().numpy().std() for norm in (tg.nn.UnbiasedLayerNorm(6, dtype=tg.float64), tg.nn.LayerNorm(6, dtype=tg.float64)))
    assert unbiased > 0.85
    assert layer < 0.1


def test_it_has_derivatives_of_every_order():
    x = tg.randn(3, 4, dtype=tg.float64, requires_grad=True)
    norm = tg.nn.UnbiasedLayerNorm(4, 0.1, dtype=tg.float64)
    value = norm(x).pow(3).sum()
    for _ in range(4):
        (g,) = tg.autograd.grad(value, x, create_graph=True)
        value = (g * g).sum()
    assert np.isfinite(g.detach().numpy()).all()

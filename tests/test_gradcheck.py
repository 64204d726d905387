"""gradcheck: that right gradients pass, wrong ones do not, and that what it says of them is true."""

import json
import sys
import warnings

import numpy as np
import pytest
import torch

import tinygrad_norm as tg
from tinygrad_norm.autograd import (
    Function,
    GradcheckError,
    GradcheckWarning,
    check_norm_invariants,
    gradcheck,
    gradcheck_report,
    gradcheck_sweep,
    gradgradcheck,
)
from tinygrad_norm.autograd.explain import explain

F = tg.nn.functional
UNIT = np.array([np.finfo(np.float64).eps])


def leaf(*shape, seed=0, scale=1.3):
    return tg.tensor(np.random.RandomState(seed).standard_normal(shape) * scale + 0.3, requires_grad=True)


def op(forward, backward):
    """A Function from two functions of arrays."""

    class Op(Function):
        def forward(self, *arrays):
            self.save_for_backward(*arrays)
            return forward(*arrays)

        def backward(self, g):
            return backward(g, *self.saved_tensors)

    return Op.apply


def square(backward):
    return op(lambda x: x**2, backward)


# -- What passes -------------------------------------------------------------------------------------------------------------------------


def test_right_gradients_pass():
    assert gradcheck(tg.exp, leaf(3, 4)) is True
    assert gradcheck(lambda x, y: (x @ y, x.sum()), (leaf(3, 4), leaf(4, 2))) is True
    assert gradgradcheck(tg.tanh, leaf(5)) is True
    assert gradcheck(lambda x: x * 2, [leaf(2)], eps=1e-6) is True


def test_inputs_of_any_structure():
    def function(pair, table, *, scale):
        return {"a": pair[0] * pair[1][0], "b": [table["w"].sum() * scale]}

    report = gradcheck_report(lambda p, t: function(p, t, scale=3), ((leaf(2), [leaf(2, seed=1), 5]), {"w": leaf(3), "n": tg.tensor([1])}))
    assert report.ok
    assert {(p.output, p.input) for p in report.pairs if p.verdict == "ok"} == {
        ("output['a']", "p[0]"),
        ("output['a']", "p[1][0]"),
        ("output['b'][0]", "t['w']"),
    }
    assert gradcheck(lambda x, y: x * y, {"x": leaf(2), "y": leaf(2)})


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.T,
        lambda x: x[::2, 1:],
        lambda x: x[:, :1].expand(4, 3),
        lambda x: x.reshape(2, 6)[1],
    ],
    ids=["transposed", "strided", "expanded", "sliced"],
)
def test_non_contiguous_and_expanded_inputs(view):
    x = view(tg.tensor(np.random.RandomState(0).standard_normal((4, 3)))).detach().requires_grad_()
    before = x._data.copy()
    assert gradcheck(lambda x: x.exp() * x, x)
    assert gradcheck(lambda x: x.exp(), view(leaf(4, 3)))  # not a leaf
    np.testing.assert_array_equal(x._data, before)


def test_the_same_tensor_twice_and_closures_over_parameters():
    x = leaf(3)
    assert gradcheck(lambda a, b: a * b, (x, x))
    layer = tg.nn.Linear(3, 2).double()
    assert gradcheck(lambda x, w: layer(x), (x, layer.weight))


def test_modules_have_their_parameters_checked():
    report = gradcheck_report(tg.nn.Linear(3, 2).double(), leaf(4, 3))
    assert [p.input for p in report.pairs] == ["input", "weight", "bias"]
    report = gradcheck_report(tg.nn.Linear(3, 2).double(), leaf(4, 3), parameters=False)
    assert [p.input for p in report.pairs] == ["input"]


def test_integers_are_ignored_and_float32_is_warned():
    assert gradcheck(lambda x, i: x[i], (leaf(4), tg.tensor([0, 2])))
    assert gradcheck(lambda x: (x * 2, (x > 0)), leaf(4))
    x = leaf(3).float().detach().requires_grad_()
    with pytest.warns(GradcheckWarning, match=r"input \(3,\) requires a gradient and is torch.float32"):
        assert gradcheck(tg.exp, x)


@pytest.mark.parametrize("fast_mode", [False, True])
def test_torch_agrees(fast_mode):
    def cases(lib, make):
        return [
            (lib.exp, (make(3, 2),)),
            (lambda x, y: x @ y, (make(3, 2), make(2, 4))),
            (lambda x: x.detach() * x, (make(3),)),
            (lambda x: lib.nn.functional.layer_norm(x, (4,)), (make(3, 4),)),
            (lib.nn.functional.relu, (make(3, 4),)),
            (lambda x: x.abs().sum(), (make(5),)),
            (lambda x: x.sum() * x.detach().sum(), (make(5),)),
        ]

    ours = cases(tg, leaf)
    theirs = cases(torch, lambda *s: torch.from_numpy(leaf(*s)._data.copy()).requires_grad_())
    for (f, x), (g, y) in zip(ours, theirs):
        with np.errstate(all="ignore"):
            mine = gradcheck_report(f, x, fast_mode=fast_mode).ok
        assert mine == torch.autograd.gradcheck(g, y, raise_exception=False, fast_mode=fast_mode)


def test_fast_mode():
    report = gradcheck_report(tg.tanh, leaf(40, 50), fast_mode=True)
    assert report.ok
    assert report.pairs[0].projected
    assert report.pairs[0].relative_error < 1e-9
    with pytest.raises(ValueError, match="only random projections"):
        report.plot()
    report = gradcheck_report(square(lambda g, x: g * x), leaf(3), fast_mode=True)  # wrong: the whole Jacobian says where
    assert report.pairs[0].verdict == "wrong"
    assert not report.pairs[0].projected


# -- It cannot be fooled ----------------------------------------------------------------------------------------------------------------------


def said(function, *inputs, **options):
    report = gradcheck_report(function, inputs, **options)
    assert not report.ok
    assert not gradcheck(function, inputs, raise_exception=False, **options)
    return str(report)


def test_a_backward_that_is_not_linear_in_dy():
    for backward in (lambda g, x: np.maximum(g, 0) * 2 * x, lambda g, x: g * g * 2 * x, lambda g, x: 2 * x * (g > 0), lambda g, x: 2 * x * g.sum() * g):
        assert "is not linear in the upstream gradient dy" in said(square(backward), leaf(3, 2))


def test_a_backward_with_a_wrong_shape_names_the_axes():
    with pytest.raises(GradcheckError, match=r"shape \(3, 4\); expected \(4,\).*a sum over axis 0 is missing"):
        gradcheck(op(lambda x, b: x + b, lambda g, x, b: (g, g)), (leaf(3, 4), leaf(4)))
    assert torch_passes_a_missing_sum()  # where torch sums silently


def torch_passes_a_missing_sum():
    class Add(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, b):
            return x + b

        @staticmethod
        def backward(ctx, g):
            return g, g

    return torch.autograd.gradcheck(Add.apply, (torch.randn(3, 4).double().requires_grad_(), torch.randn(4).double().requires_grad_()))


def test_a_backward_that_writes_to_what_is_not_its_own():
    def into_dy(g, x):
        g *= 2 * x
        return g

    def into_x(g, x):
        x *= 2
        return g * x

    assert "changes the gradient of output in place" in said(square(into_dy), leaf(3))
    assert "changes input[0] (3,) in place: what was saved must stay as it was" in said(square(into_x), leaf(3))


def test_a_forward_that_writes_to_its_input():
    def forward(x):
        x *= 1.5
        return x * 2

    x = leaf(3)
    before = x._data.copy()
    assert "changes input[0] (3,) in place, which is an input" in said(op(forward, lambda g, x: g * 2), x)
    np.testing.assert_array_equal(x._data, before)


def test_a_backward_that_changes_from_call_to_call():
    rng = np.random.RandomState(0)
    noisy = square(lambda g, x: 2 * x * g * (1 + 1e-9 * rng.uniform()))
    assert "Backward is not reentrant" in said(noisy, leaf(3))
    assert gradcheck(noisy, leaf(3), nondet_tol=1e-3)


def test_a_cut_graph():
    assert "its graph does not lead there" in said(lambda x: x.detach() * 2, leaf(2))
    text = said(lambda x: (x * 2, x.detach() * 3), leaf(2))
    assert "output[1] (2,) changes with x" in text
    text = said(lambda x, w: x * w.detach(), leaf(2), leaf(2))
    assert "no gradient comes back to w" in text


def test_a_missing_path():
    text = said(lambda x: x * x.detach(), leaf(4))
    assert "dx is 0.5 times the right one" in text or "1/2 of" in text


@pytest.mark.parametrize(
    ("backward", "finding"),
    [
        (lambda g, x: 4 * x * g, "is 2 times the right one, everywhere"),
        (lambda g, x: -2 * x * g, "has the wrong sign, everywhere"),
        (lambda g, x: 2 * x * g / 4, "is 1/4 of (and 4 is the length of axis 0) the right one"),
        (lambda g, x: (2 * x * g).T, "equals the transpose of the right one"),
        (lambda g, x: 0 * x, "is zero everywhere"),
        (lambda g, x: 2 * x * g * np.array([1, 3, 1, 1])[:, None], "only row 1 of dinput[0] is wrong (axis 0)"),
        (lambda g, x: 2 * x * g * np.array([1, 3, 5, 1])[:, None], "only rows [1, 2] of dinput[0] are wrong (axis 0)"),
        (lambda g, x: 2 * x * g * np.array([1, 3, 1, 1]), "only column 1 of dinput[0] is wrong (axis 1)"),
    ],
    ids=["factor", "sign", "mean", "transpose", "zero", "row", "rows", "column"],
)
def test_what_kind_of_mistake(backward, finding):
    assert finding in said(square(backward), leaf(4, 4))


def norm_backward(mean, variance):
    def backward(g, x):
        def m(a):
            return a.mean(1, keepdims=True)

        rstd = 1 / np.sqrt(x.var(1, keepdims=True) + 0.3)
        xhat = (x - m(x)) * rstd
        return rstd * (g - mean * m(g) - variance * xhat * m(g * xhat))

    return op(lambda x: (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 0.3), backward)


def test_the_terms_of_a_norm():
    assert gradcheck(norm_backward(1, 1), leaf(4, 5))
    assert "the path through a mean over that axis is wrong or missing" in said(norm_backward(0, 1), leaf(4, 5))
    assert "the path through the variance is wrong or missing" in said(norm_backward(1, 2), leaf(4, 5))
    assert "both statistics' paths" in said(norm_backward(0, 0), leaf(4, 5))


def test_a_mistake_that_the_tolerance_hides_is_told():
    report = gradcheck_report(square(lambda g, x: 2 * x * g * (1 + 1e-5)), leaf(3))
    assert report.ok
    assert "within the tolerance, but the gradients differ by 1.0e-05" in str(report)
    assert not gradcheck_report(square(lambda g, x: 2 * x * g * (1 + 1e-5)), leaf(3), rtol=1e-7, atol=1e-9).ok


def test_explain_says_nothing_where_nothing_is_certain():
    rng = np.random.RandomState(0)
    assert explain(rng.standard_normal((3, 4)), rng.standard_normal((3, 4))) == []
    assert explain(np.ones(3), np.ones(4)) == []
    assert explain(np.array([np.nan, 1]), np.ones(2), "dx") == ["dx has 1 values that are not finite"]


# -- Blind recipes ----------------------------------------------------------------------------------------------------------------------------


def test_blind_recipes_are_warned_of():
    norm = tg.nn.LayerNorm(5).double()
    told = gradcheck_report(norm, leaf(1, 5)).warnings
    assert any("γ = 1 everywhere" in w for w in told)
    assert any("one sample only" in w for w in told)
    assert any("eps is lost beside the variance" in w for w in told)
    told = gradcheck_report(lambda x: norm(x).sum(), leaf(4, 5)).warnings
    assert any("the upstream gradient is the same number everywhere" in w for w in told)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gradcheck(norm, leaf(3, 5))
    assert any("γ = 1" in str(w.message) and w.category is GradcheckWarning for w in caught)
    assert all(w.filename == __file__ for w in caught)
    batch = tg.nn.BatchNorm1d(3).double()
    assert any("BatchNorm: γ = 1" in w for w in gradcheck_report(batch, leaf(4, 3, 2)).warnings)


def test_a_good_recipe_has_no_warning():
    norm = tg.nn.LayerNorm(5, eps=0.3).double()
    norm.weight._data[:] = [1.5, -0.7, 2, 0.4, -1]
    assert gradcheck_report(norm, leaf(4, 5)).warnings == []
    assert gradcheck_report(tg.exp, tg.ones(3, dtype=tg.float64, requires_grad=True)).warnings == []


def test_blind_recipes_of_a_students_function():
    mine = op(lambda x, w: x * w, lambda g, x, w: (g * w, (g * x).sum(0)))
    ones = tg.ones(4, dtype=tg.float64, requires_grad=True)
    assert any("w" in w or "input[1]" in w for w in gradcheck_report(mine, (leaf(3, 4), ones)).warnings)
    assert any("same number everywhere" in w for w in gradcheck_report(lambda x, w: mine(x, w).mean(), (leaf(3, 4), leaf(4))).warnings)
    assert gradcheck_report(mine, (leaf(3, 4), leaf(4))).warnings == []


# -- Bad input --------------------------------------------------------------------------------------------------------------------------------


def test_bad_input():
    x = leaf(3)
    with pytest.raises(ValueError, match=r"at least one input tensor to require gradient.*input \(3,\) is torch.float64"):
        gradcheck(tg.exp, x.detach())
    with pytest.raises(ValueError, match="there is no Tensor among the inputs"):
        gradcheck(lambda a: a, 3)
    with pytest.raises(GradcheckError, match=r"returns no Tensor.*got None"):
        gradcheck(lambda x: None, x)
    with pytest.raises(GradcheckError, match="a NumPy array"):
        gradcheck(lambda x: x.detach().numpy(), x)
    with pytest.raises(GradcheckError, match=r"no floating point Tensor: output is torch.bool"):
        gradcheck(lambda x: x > 0, x)
    with pytest.raises(GradcheckError, match=r"no output depends on the input y \(3,\)"):
        gradcheck(lambda x, y: x * 2, (x, leaf(3)))
    assert gradcheck(lambda x, y: x * 2, (x, leaf(3)), allow_unused=True)
    with pytest.raises(GradcheckError, match=r"output\[1\] \(2,\) does not depend on any input"):
        gradcheck(lambda x: (x, tg.ones(2, dtype=tg.float64)), x)
    with pytest.raises(TypeError, match="must be callable; got int"):
        gradcheck(3, x)
    with pytest.raises(GradcheckError, match="do not depend on anything: it is linear"):
        gradgradcheck(lambda x: x.sum() * 0 + tg.ones(1, dtype=tg.float64), x, [tg.ones(1, dtype=tg.float64)])
    with pytest.raises(ValueError, match="1 output but 2 grad_outputs"):
        gradgradcheck(tg.exp, x, [x, x])
    assert issubclass(GradcheckError, RuntimeError)
    from tinygrad_norm.autograd.gradcheck import GradcheckError as Same  # torch's path

    assert Same is GradcheckError
    assert callable(tg.autograd.gradcheck)


def test_a_jacobian_that_does_not_fit():
    x = leaf(300, 200)
    with pytest.raises(ValueError, match=r"3600000000 elements.*fast_mode=True"):
        gradcheck(tg.exp, x)
    assert gradcheck(tg.exp, x, fast_mode=True)


def test_empty_and_zero_dimensional_inputs():
    assert gradcheck(lambda x: x * 2, tg.tensor(3.0, dtype=tg.float64, requires_grad=True))
    assert gradcheck(lambda x, y: (x * 2).sum() + y, (tg.zeros(0, 3, dtype=tg.float64, requires_grad=True), leaf()), allow_unused=True)


# -- The result --------------------------------------------------------------------------------------------------------------------------------


def test_the_report():
    report = gradcheck_report(square(lambda g, x: 3 * x * g), leaf(2, 3))
    pair = report.worst
    assert pair is report.pairs[0]
    o, i = pair.output_index, pair.input_index
    assert o == i
    x = leaf(2, 3)._data[i]
    assert pair.analytic_value == pytest.approx(3 * x)
    assert pair.numeric_value == pytest.approx(2 * x, rel=1e-12)
    assert pair.absolute_error == pytest.approx(abs(x), rel=1e-9)
    assert pair.relative_error == pytest.approx(1 / 3, rel=1e-9)
    assert 0 < pair.error_estimate < 1e-11
    assert abs(x) == np.abs(leaf(2, 3)._data).max()
    text = str(report)
    assert text.startswith("gradcheck of Op.apply: FAILED")
    assert str(list(i)) in text
    data = json.loads(json.dumps(report.to_dict()))
    assert data["pairs"][0]["verdict"] == "wrong"
    page = report._repr_html_()
    assert "<table>" in page
    assert "wrong" in page
    assert "<lambda>" not in gradcheck_report(lambda x: x, leaf(1))._repr_html_()
    assert bool(report) is False


def test_pictures(tmp_path):
    report = gradcheck_report(square(lambda g, x: 3 * x * g), leaf(2, 3))
    figure = report.plot(path=tmp_path / "jacobians.png")
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert len(panels) == 3
    assert all(axes.get_xlabel() for axes in panels)
    assert (tmp_path / "jacobians.png").stat().st_size > 5000
    sweep = gradcheck_sweep(tg.exp, leaf(3)).plot(tmp_path / "sweep.png")
    assert sweep.axes[0].get_xscale() == sweep.axes[0].get_yscale() == "log"
    assert (tmp_path / "sweep.png").stat().st_size > 5000
    gradcheck_report(lambda x: x.sum(), leaf(3)).plot(0)


def test_pictures_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "tinygrad_norm\[plot\]"'):
        gradcheck_report(tg.exp, leaf(2)).plot()


# -- Invariants -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (tg.nn.LayerNorm(5).double(), (4, 5)),
        (tg.nn.LayerNorm((3, 4), eps=0.3).double(), (2, 3, 4)),
        (tg.nn.BatchNorm1d(4, eps=0.3).double(), (6, 4)),
        (tg.nn.BatchNorm1d(3).double(), (4, 3, 5)),
        (tg.nn.GroupNorm(2, 6, eps=0.3).double(), (3, 6, 5)),
        (tg.nn.GroupNorm(2, 6).double(), (3, 6)),
        (tg.nn.InstanceNorm1d(3, affine=True).double(), (4, 3, 5)),
        (tg.nn.RMSNorm(5).double(), (4, 5)),
        (tg.nn.RMSNorm((3, 4), eps=0.3).double(), (2, 3, 4)),
        (tg.nn.LayerNormalization(axis=[0, 2], epsilon=0.3), (3, 4, 2)),
    ],
    ids=lambda value: value._get_name() if isinstance(value, tg.nn.Module) else "×".join(map(str, value)),
)
def test_the_norms_keep_their_invariants(norm, shape):
    norm(leaf(*shape))
    rng = np.random.RandomState(1)
    for p in norm.parameters():
        p._data[...] = rng.uniform(-2, 2, p.shape)
    if isinstance(norm, tg.nn.BatchNorm1d):
        norm.reset_running_stats()
    report = check_norm_invariants(norm, leaf(*shape))
    assert report.ok, report
    assert max(i.error for i in report) < 1e-13
    if isinstance(norm, tg.nn.BatchNorm1d):
        assert norm.num_batches_tracked.item() == 0


def test_broken_invariants_are_named():
    def broken(function, axes=(-1,)):
        return {i.name for i in check_norm_invariants(function, leaf(4, 5), axes=axes, eps=0.3) if not i.ok}

    assert broken(norm_backward(1, 1)) == set()
    assert broken(norm_backward(0, 1)) == {"dx sums to 0"}
    assert broken(norm_backward(1, 0)) == {"dx ⟂ x − μ"}
    assert broken(lambda x: x - x.mean(1, True)) == {"dx ⟂ x − μ", "scale"}
    assert "shift" in broken(lambda x: x / ((x * x).mean(1, True) + 0.3).sqrt())
    uncentred = check_norm_invariants(lambda x: x / ((x * x).mean(1, True) + 0.3).sqrt(), leaf(4, 5), axes=(1,), eps=0.3, centred=False)
    assert uncentred.ok
    assert [i.name for i in uncentred] == ["dx ⟂ x", "scale", "groups"]
    assert not check_norm_invariants(lambda x: F.layer_norm(x, (5,)), leaf(4, 5), axes=(1,), centred=False).ok
    whole = check_norm_invariants(lambda x: F.group_norm(x, 1), leaf(3, 4, 5), axes=(2,))
    assert not whole["groups"].ok  # one group of four channels, and none of them alone
    assert "groups" in broken(lambda x: F.batch_norm(x, None, None, training=True, eps=0.3))
    with pytest.raises(ValueError, match="say over which axes"):
        check_norm_invariants(lambda x: x, leaf(4, 5))
    with pytest.raises(ValueError, match="in eval a BatchNorm scales by constants"):
        check_norm_invariants(tg.nn.BatchNorm1d(5).double().eval(), leaf(4, 5))
    with pytest.raises(ValueError, match="one value for each statistic"):
        check_norm_invariants(lambda x: x, leaf(4, 1), axes=(1,))
    norm = tg.nn.LayerNorm(5).double()
    for x, got in ((tg.tensor(np.arange(20).reshape(4, 5)), "torch.int64"), (np.ones((4, 5)), "ndarray")):
        with pytest.raises(TypeError, match=f"x must be a floating point Tensor; got {got}"):
            check_norm_invariants(norm, x)
    for shape in ((0, 5), (4, 0)):
        with pytest.raises(ValueError, match=r"x \(., .\) is empty"):
            check_norm_invariants(norm, leaf(*shape))
    with pytest.raises(ValueError, match="eps must be >= 0; got -1"):
        check_norm_invariants(norm, leaf(4, 5), eps=-1)


def test_invariants_of_a_norm_without_eps():
    report = check_norm_invariants(tg.nn.LayerNorm(5, eps=0.0).double(), leaf(4, 5))
    assert report.ok and max(i.error for i in report) < 1e-13
    with pytest.raises(ValueError, match="where eps is 0 no variance may be"):
        check_norm_invariants(tg.nn.LayerNorm(5, eps=0.0).double(), tg.ones(4, 5, dtype=tg.float64))
    assert not check_norm_invariants(norm_backward(1, 1), leaf(4, 5), axes=(1,), eps=0.0).ok  # its own is 0.3


def test_empty_inputs_and_inputs_that_share_a_name():
    a, b = (tg.zeros(*shape, dtype=tg.float64, requires_grad=True) for shape in ((0, 3), (3, 2)))
    assert tg.autograd.gradcheck(lambda a: a.exp(), a) and tg.autograd.gradcheck(lambda a, b: a @ b, (a, b))

    class Scale(tg.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = tg.nn.Parameter(tg.tensor([2.0, -1.0], dtype=tg.float64))

        def forward(self, weight):
            return weight * weight * self.weight

    x = tg.tensor([0.5, 3.0], dtype=tg.float64, requires_grad=True)
    report = tg.autograd.gradcheck_report(Scale(), x)
    assert report.ok and [p.input for p in report.pairs] == ["weight", "self.weight"]
    assert tg.autograd.gradgradcheck(Scale(), x)

    class Cube(tg.autograd.Function):
        def forward(self, x):
            self.save_for_backward(x)
            return x**3

        def backward(self, g):
            (x,) = self.saved_tensors
            return 3 * (x.detach() if isinstance(x, tg.Tensor) else x) * x * g  # half of the second derivative

    assert not tg.autograd.gradgradcheck(lambda x, grad_output: Cube.apply(grad_output) * x, (x, tg.tensor([1.0, 2.0], dtype=tg.float64, requires_grad=True)), raise_exception=False)

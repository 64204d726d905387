"""The picture of a graph and the walk step by step: the engine's own order and numbers, nothing changed, names and values that are true."""

import gc
import inspect
import random
import re
import sys
import threading

import numpy as np
import pytest

import tinygrad_norm as tg
from tinygrad_norm.function import AccumulateGrad, Function
from tinygrad_norm.graph import formulas, nodes
from tinygrad_norm.graph.words import assigned, number, one_line, rows, width_of
from tinygrad_norm.testing import CASES
from tinygrad_norm.train import MLP
from tinygrad_norm.walk import _Spent

by_name = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "_"))


def first_float(result):
    """The differentiable part of what a case returns, as one Tensor."""
    if isinstance(result, tg.Tensor):
        return result
    return next(t for t in result if isinstance(t, tg.Tensor) and t.requires_grad)


def leaves_of(case):
    return [tg.tensor(a, requires_grad=a.dtype.kind == "f") for a in case.arrays()]


def layer_norm_by_hand(x, gamma, beta):
    centred = x - x.mean(-1, keepdim=True)
    var = (centred * centred).mean(-1, keepdim=True)
    return centred * (var + 1e-5).rsqrt() * gamma + beta


def mlp_loss():
    model = MLP(10, 16, 2)
    return model, tg.nn.functional.cross_entropy(model(tg.randn(4, 10)), tg.randint(0, 2, (4,)))


# -- The walk is the engine's -------------------------------------------------------------------------------------------------------------


def engines_walk(loss, gradient, monkeypatch):
    """(node, gradients in, gradients out) of every backward, in the order in which the engine itself calls them."""
    seen = []
    with monkeypatch.context() as patch:
        for cls, real in {type(node): type(node).backward for node in nodes.nodes_of(loss)}.items():

            def spy(node, *grads, _real=real):
                results = _real(node, *grads)
                seen.append((node, [np.array(g) for g in grads], results if isinstance(results, tuple) else (results,)))
                return results

            patch.setattr(cls, "backward", spy)
        loss.backward(gradient, retain_graph=True)
    return seen


@by_name
def test_steps_are_the_engines_in_order_and_in_numbers(case, monkeypatch):
    leaves = leaves_of(case)
    out = first_float(case.function(tg, *leaves))
    gradient = tg.randn(tuple(out.shape)).to(out.dtype)
    walk = tg.graph.explain(out, gradient=gradient)
    assert all(leaf.grad is None for leaf in leaves)
    engine = engines_walk(out, gradient, monkeypatch)
    steps = [s for s in walk.steps if s.kind == "op"]
    assert [walk.graph.boxes[s.box].source for s in steps] == [node for node, _, _ in engine]
    for step, (_, grads, results) in zip(steps, engine):
        for (_, g, parts), right in zip(step.incoming, grads):
            np.testing.assert_array_equal(g, right)
            if parts:
                np.testing.assert_allclose(sum(p for _, p in parts), right, rtol=1e-12, atol=1e-15)
        wanted = [r for e, r in zip(walk.graph.boxes[step.box].source.edges, results) if e is not None]
        for (_, g), right in zip(step.gives, wanted):
            np.testing.assert_array_equal(g, right)
    ends = {s.target: s.after for s in walk.steps[-1].sums}
    brought = [e for node, _, _ in engine for e in node.edges if isinstance(e, tg.Tensor)]  # by a layer
    leaves = list({id(leaf): leaf for leaf in [*leaves, *brought]}.values())
    assert len(ends) == sum(leaf.grad is not None for leaf in leaves)
    for total in walk.steps[-1].sums:
        assert any(leaf.grad is not None and np.array_equal(total.after, leaf.grad.numpy(), equal_nan=True) for leaf in leaves)
    walk.text(), walk._repr_html_(), walk.picture()


@pytest.mark.parametrize("seed", range(12))
def test_random_programs(seed, monkeypatch):
    """Shared values, dead ends, several outputs of one node: order, sums and numbers are the engine's."""
    rng = random.Random(seed)
    leaves = [tg.randn(3, requires_grad=True) for _ in range(3)]
    values = list(leaves)
    for _ in range(20):
        a, b = rng.choice(values), rng.choice(values)
        made = rng.choice([lambda: a + b, lambda: a * b.tanh(), lambda: (a - b).relu(), lambda: tg.cat([a, b]).split(3)[rng.randrange(2)], lambda: a.max(0).values * b])()
        values.append(made)
    loss = (values[-1] * values[-2]).sum() + values[rng.randrange(3, 20)].mean()
    walk = tg.graph.explain(loss)
    engine = engines_walk(loss, None, monkeypatch)
    steps = [s for s in walk.steps if s.kind == "op"]
    assert [walk.graph.boxes[s.box].source for s in steps] == [node for node, _, _ in engine]
    for step, (_, grads, _) in zip(steps, engine):
        for (_, g, _), right in zip(step.incoming, grads):
            np.testing.assert_array_equal(g, right)
    for total in walk.steps[-1].sums:
        leaf = next(leaf for leaf in leaves if total.target == f"{next(b.title for b in walk.graph.boxes if b.source is leaf)}.grad")
        np.testing.assert_array_equal(total.after, leaf.grad.numpy())


def test_nothing_is_changed():
    model, loss = mlp_loss()
    hidden = model.fc1.weight * 1
    hidden.retain_grad()
    loss = loss + hidden.sum()
    versions = [p._version for p in model.parameters()]
    before = tg.graph.explain(loss)
    assert all(p.grad is None for p in model.parameters()) and hidden.grad is None
    assert [p._version for p in model.parameters()] == versions
    assert tg.graph.explain(loss).text() == before.text()
    loss.backward()  # the graph is still there
    for total in before.steps[-1].sums:
        np.testing.assert_array_equal(total.after, model.get_parameter(total.target.removeprefix("model.").removesuffix(".grad")).grad.numpy())


def test_explain_keeps_no_graph_alive():
    x = tg.ones(3, requires_grad=True)
    gone = []

    class Tracked(Function):
        def forward(self, x):
            return x * 1

        def backward(self, g):
            return g

        def __del__(self):
            gone.append(True)

    gc.disable()  # nothing waits for the collector of cycles
    try:
        with tg.graph.record():
            loss = Tracked.apply(x).sum()
        walk = tg.graph.explain(loss)
        assert walk.steps
        del walk, loss
        assert gone
    finally:
        gc.enable()


def test_accumulation_is_shown():
    x = tg.tensor(2.0, requires_grad=True)
    y = x * 3
    text = tg.graph.explain(y * y + x).text()
    assert "x.grad: 1.0 + 36.0 = 37.0" in text
    assert "g = 6.0 + 6.0 = 12.0   (from step 3)" in text
    assert tg.graph.explain(x * x).steps[1].sums[1].lines() == ["x.grad: 2.0 + 2.0 = 4.0"]


def test_a_grad_that_is_there_already_is_added_to():
    x = tg.tensor(3.0, requires_grad=True)
    loss = x * x
    loss.backward(retain_graph=True)
    last = tg.graph.explain(loss).steps[-1]
    assert last.sums[0].lines() == ["x.grad: 6.0 + 6.0 = 12.0"]
    assert "zero_grad" in " ".join(last.notes)
    assert x.grad.item() == 6


def test_hooks_are_part_of_the_walk():
    x = tg.tensor(3.0, requires_grad=True)
    y = x * 2
    y.register_hook(lambda g: g * 10)
    x.register_hook(lambda g: g + 1)
    walk = tg.graph.explain(y * y)
    (y * y).backward()
    assert walk.steps[-1].sums[0].after == x.grad.numpy() == 241
    assert "a hook changed the gradient that came in" in walk.steps[2].notes
    assert "a hook changed the gradient of x" in walk.steps[-1].notes
    text = walk.text()
    assert "g = 6.0 + 6.0 = 12.0   (from step 2)" in text and "g after a hook = 120.0" in text and "= 120.0   (from" not in text
    root = x * 2
    root.register_hook(lambda g: g * 10)
    assert [(name, g.item()) for name, g, _ in tg.graph.explain(root).steps[1].incoming] == [("g", 1), ("g after a hook", 10)]


def test_after_the_graph_was_freed():
    x = tg.tensor(3.0, requires_grad=True)
    loss = (x * x).exp()
    loss.backward()
    with pytest.raises(RuntimeError, match=r"explain: MulBackward0 no longer has .*retain_graph=True"):
        tg.graph.explain(loss)
    assert "MulBackward0" in tg.graph.draw(loss).svg  # its shape is still there


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: tg.graph.explain(3), TypeError, "explain: expected a Tensor"),
        (lambda: tg.graph.draw("loss"), TypeError, "draw: expected a Tensor"),
        (lambda: tg.graph.explain(lambda: 3), TypeError, "explain: expected a Tensor"),
        (lambda: tg.graph.explain(tg.ones(2)), RuntimeError, "implicitly|does not require grad"),
        (lambda: tg.graph.explain(tg.tensor(1.0)), RuntimeError, "does not require grad"),
        (lambda: tg.graph.explain(tg.ones(2, requires_grad=True) * 2), RuntimeError, "implicitly created only for scalar"),
        (lambda: tg.graph.explain(tg.ones(2, requires_grad=True) * 2, gradient=tg.ones(3)), RuntimeError, "Mismatch in shape"),
        (lambda: tg.graph.explain(tg.ones(2, requires_grad=True) * 2, gradient=[1, 1]), TypeError, "gradients can be either Tensors or None"),
        (lambda: tg.graph.draw(tg.ones(2), names=["x"]), TypeError, "names must be a Module or a dict"),
        (lambda: tg.graph.draw(tg.ones(2), names={"x": 3}), TypeError, "'x' is a int"),
    ],
)
def test_bad_calls_say_so(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_a_wrong_backward_is_named_as_by_the_engine():
    class Wrong(Function):
        def forward(self, x):
            return x.sum()

        def backward(self, g):
            return g

    with pytest.raises(RuntimeError, match=r"WrongBackward: the gradient for input 0 has shape \(\); expected \(3,\)"):
        tg.graph.explain(Wrong.apply(tg.ones(3, requires_grad=True)))


def test_too_large_for_a_picture():
    x = tg.tensor(1.0, requires_grad=True)
    y = x
    for _ in range(1001):
        y = y + 1
    with pytest.raises(ValueError, match="1002 ops and inputs"):
        tg.graph.draw(y)
    walk = tg.graph.explain(y)
    assert len(walk.steps) == 1003 and "step 1003 of 1003" in walk.text()  # the text has no such limit


def test_odd_graphs():
    x = tg.tensor(2.0, requires_grad=True)
    assert [s.kind for s in tg.graph.explain(x).steps] == ["start", "end"]  # a leaf by itself
    assert tg.graph.explain(x).steps[-1].sums[0].after == 1
    (dx,) = tg.autograd.grad(x**3, x, create_graph=True)
    assert tg.graph.explain(dx).steps[-1].sums[0].after == 12  # the derivative of a derivative
    norm = tg.nn.LayerNorm(3)
    z = tg.randn(2, 3, requires_grad=True)
    (dz,) = tg.autograd.grad((norm(z) ** 3).sum(), z, create_graph=True)
    text = tg.graph.explain((dz * dz).sum()).text()
    assert "NativeLayerNormBackwardBackward0" in text and "(12)" in text
    empty = tg.zeros(0, 3, requires_grad=True)
    assert "(0, 3): empty" in tg.graph.explain((empty * 2).sum()).text()
    odd = tg.tensor([float("nan"), float("inf"), -1.0], requires_grad=True)
    assert "[nan, inf, −1.0]" in tg.graph.explain((odd * 2).sum()).text()
    wide = tg.ones(3, dtype=tg.float64, requires_grad=True)
    assert tg.graph.explain((wide.float() * 2).sum()).steps[-1].sums[0].after.dtype == np.float64
    w = tg.randn(4, requires_grad=True)
    w2 = w * 1
    w2[1:3] = tg.ones(2, requires_grad=True) * 3  # in place
    assert "CopySlices" in tg.graph.explain(w2.sum()).text()


def test_a_users_own_function():
    class Double(Function):
        """Twice the input."""

        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return 2 * x

        @staticmethod
        def backward(ctx, g):
            return 2 * g

    x = tg.tensor(2.0, requires_grad=True)
    step = tg.graph.explain(Double.apply(x)).steps[1]
    assert (step.forward, step.formula) == ("Twice the input.", "what Double.backward returns")
    assert step.gives[0][0] == "dx" and step.kept == [("x", np.array(2.0, np.float32))]

    class Mul(Function):  # a name that the library has too
        def forward(self, x):
            return x * 5

        def backward(self, g):
            return g * 5

    assert tg.graph.explain(Mul.apply(x)).steps[1].formula == "what Mul.backward returns"


# -- Formulas -----------------------------------------------------------------------------------------------------------------------------


def library_functions(cls=Function):
    for sub in cls.__subclasses__():
        if sub.__module__.startswith("tinygrad_norm.") and getattr(sys.modules[sub.__module__], sub.__name__, None) is sub:
            yield sub
        yield from library_functions(sub)


def test_every_op_has_its_formula():
    rooms = {cls for cls in library_functions() if not cls.__module__.startswith("tinygrad_norm.graph")} - {AccumulateGrad, _Spent}
    missing = sorted(f"{cls.__module__}.{cls.__name__}" for cls in rooms if cls.__name__ not in formulas.FORMULAS)
    assert not missing, f"no formula in tinygrad_norm/graph/formulas.py for {missing}: add a line for each"
    assert not set(formulas.FORMULAS) - {cls.__name__ for cls in rooms}
    assert set(formulas.BROADCASTS) <= set(formulas.FORMULAS)


@pytest.mark.parametrize("name", sorted(formulas.FORMULAS))
def test_equation_numbers_are_those_of_the_room(name):
    cls = next(cls for cls in library_functions() if cls.__name__ == name)
    room = inspect.getsource(sys.modules[cls.__module__])
    formula = formulas.FORMULAS[name]
    for cited in re.findall(r"\(([\d–, ]+)\)", formula.forward + formula.backward):
        for n in re.findall(r"\d+", cited):
            assert f"({n})" in room, f"{name} cites ({n})"


@by_name
def test_gradients_have_the_names_of_the_arguments(case):
    out = first_float(case.function(tg, *leaves_of(case)))
    for node in nodes.nodes_of(out):
        names = formulas.argument_names(node)
        assert len(names) == len(node.edges) == len(set(names))


# -- Values -------------------------------------------------------------------------------------------------------------------------------


@by_name
def test_what_is_rebuilt_is_what_was_computed(case):
    """Found without record(), each value is what it was; with it, every value is there."""
    leaves = leaves_of(case)
    with tg.graph.record():
        out = first_float(case.function(tg, *leaves))
    full = nodes.collect(out, {})
    assert all(v is not None for b in full.boxes for v in b.values)
    kept = dict(nodes._recorded)
    nodes._recorded.clear()
    try:
        found = nodes.collect(out, {})
    finally:
        nodes._recorded.update(kept)
    by_node = {id(b.source): b for b in full.boxes}
    for box in found.boxes:
        if box.kind == "op":
            for mine, right in zip(box.values, by_node[id(box.source)].values):
                if mine is not None:
                    np.testing.assert_allclose(mine, right, rtol=1e-12, atol=1e-12)
                    assert mine.dtype == right.dtype and mine.shape == right.shape


def test_common_models_show_nearly_every_value():
    model, loss = mlp_loss()
    assert all(v is not None for b in tg.graph.draw(loss).graph.boxes for v in b.values)
    batch = MLP(10, 16, 2, norm="batch")
    loss = tg.nn.functional.cross_entropy(batch(tg.randn(4, 10)), tg.randint(0, 2, (4,)))
    assert all(v is not None for b in tg.graph.draw(loss).graph.boxes for v in b.values)
    x, gamma, beta = tg.randn(2, 3, requires_grad=True), tg.ones(3, requires_grad=True), tg.zeros(3, requires_grad=True)
    walk = tg.graph.explain(layer_norm_by_hand(x, gamma, beta).sum())
    unknown = [b for b in walk.graph.boxes if any(v is None for v in b.values)]
    assert len(unknown) == 1 and "record()" in walk.hint and walk.hint in walk.text()  # var + eps: a number that Add keeps nowhere
    whole = tg.graph.explain(lambda: layer_norm_by_hand(x, gamma, beta).sum())
    assert all(v is not None for b in whole.graph.boxes for v in b.values) and not whole.hint
    assert ["b = 1e-05"] in [b.numbers for b in whole.graph.boxes]
    one, two = gamma.split([1, 2])
    assert [v.tolist() for b in tg.graph.draw((one + two).sum()).graph.boxes if "Split" in b.title for v in b.values] == [[1.0], [1.0, 1.0]]


def test_values_changed_in_place_since_are_not_shown_as_what_they_were():
    x = tg.ones(2, requires_grad=True)
    data = tg.ones(2)
    y = (x * data).exp()
    with tg.graph.record():
        z = (x * data).sum()
    data.fill_(7.0)
    assert [b.kind for b in tg.graph.draw(y).graph.boxes] == ["leaf", "op", "op"]
    assert [b.kind for b in tg.graph.draw(z).graph.boxes] == ["leaf", "op", "op"]


def test_what_is_shown_stays():
    x = tg.ones(2, requires_grad=True)
    walk = tg.graph.explain((x * 2).sum())
    before = walk.text()
    with tg.no_grad():
        x.fill_(9.0)
    assert walk.text() == before


def test_record_is_of_this_thread_and_ends():
    apply = Function.__dict__["apply"]
    x = tg.tensor(2.0, requires_grad=True)
    made = []
    with tg.graph.record(), tg.graph.record():
        worker = threading.Thread(target=lambda: made.append((x + 1) * 2))
        worker.start()
        worker.join()
    with pytest.raises(ZeroDivisionError), tg.graph.record():
        1 / 0  # noqa: B018
    assert Function.__dict__["apply"] is apply
    assert not set(nodes.nodes_of(made[0])) & set(nodes._recorded)


# -- Names --------------------------------------------------------------------------------------------------------------------------------


def titles(picture):
    return [b.title for b in picture.graph.boxes if b.kind != "op"]


def test_names_come_from_where_it_is_called():
    weight = tg.randn(2, 3, requires_grad=True)
    data = tg.randn(4, 3)
    hidden = tg.nn.functional.linear(data, weight)
    picture = tg.graph.draw(hidden.sum())
    assert titles(picture) == ["data", "weight"]
    assert picture.graph.boxes[2].names == {0: "hidden"}
    model, loss = mlp_loss()
    assert titles(tg.graph.draw(loss)) == ["constant", *(f"model.{n}" for n, _ in model.named_parameters())]


def test_names_can_be_given():
    model, loss = mlp_loss()
    assert titles(tg.graph.draw(loss, model))[1:] == [n for n, _ in model.named_parameters()]
    assert titles(tg.graph.draw(loss, {"net": model}))[1:] == [f"net.{n}" for n, _ in model.named_parameters()]
    first = {"W": model.fc1.weight}
    assert titles(tg.graph.draw(loss, first))[1:3] == ["W", "leaf 2"]
    assert titles(tg.graph.draw(loss, {}))[1] == "leaf 1"


# -- Words --------------------------------------------------------------------------------------------------------------------------------


def test_numbers_and_arrays_in_words():
    assert [number(v) for v in (2.0, -0.5, 1e-7, 123456.0, True, 7, float("nan"), -float("inf"))] == ["2.0", "−0.5", "1e-07", "1.235e+05", "True", "7", "nan", "−inf"]
    assert one_line(np.zeros((0, 2))) == "(0, 2): empty"
    assert one_line(np.arange(100)) == "(100,): 0 … 99"
    assert one_line(np.array([True, False])) == "[True, False]"
    assert one_line(None) == "not kept"
    assert rows(np.array([[1.0, 20.0], [-3.0, 4.0]])) == ["[ 1.0, 20.0]", "[−3.0,  4.0]"]
    assert rows(np.array([[0.5, 20.25], [-3.0, 4.0]])) == ["[ 0.50, 20.25]", "[−3.00,  4.00]"]
    assert rows(np.array([[1e-9, 1.5]])) == ["[1e-09,   1.5]"]  # fixed point would hide the small one
    assert rows(np.zeros((5, 2, 2))) == ["mean 0.0", "0.0 … 0.0"]
    assert rows(np.zeros(7, np.int64)) == ["0 … 0"]
    assert assigned("g", np.array(3.0)) == ["g = 3.0"]
    assert width_of("漢", 10) == 2 * width_of("a", 10) and width_of("x̂", 10) == width_of("x", 10)


def test_a_leaf_that_was_stepped_since_is_not_shown_as_what_it_was():
    x, w = tg.ones(2), tg.tensor([1.0, 2.0], requires_grad=True)
    y = x + w
    loss = y.sum()
    with tg.no_grad():
        w.sub_(0.5)
    assert next(b for b in tg.graph.draw(loss).graph.boxes if b.kind == "op").values == [None]

"""The sources of the assignments: notebooks do not drift from them, solutions are right, the mistakes they list are told apart."""

import json
import time
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

import tinygrad_norm as tg
from tinygrad_norm.autograd.power import BANK
from tinygrad_norm.cli import main
from tinygrad_norm.course import assignment, load, names
from tinygrad_norm.course.assignment import FOLDER, parse, read
from tinygrad_norm.course.diagnosis import same
from tinygrad_norm.course.judge import judge
from tinygrad_norm.course.notebooks import notebook, write_student_notebooks
from tinygrad_norm.course.task import Case, Output, Task, Values, task

NOTEBOOKS = Path(__file__).parent.parent / "notebooks" / "assignments"
TASKS = [(name, task) for name in names() for task in load(name).tasks]
ENTRIES = [(n, t, o.name, w.name) for n, t in TASKS for o in load(n).tasks[t].outputs for w in o.wrong]


@pytest.mark.parametrize("name", names())
def test_notebooks_are_as_generated(name, tmp_path):
    write_student_notebooks(tmp_path)
    committed = (NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8")
    assert committed == (tmp_path / f"{name}.ipynb").read_text(encoding="utf-8"), "run: python -m tinygrad_norm.course.notebooks notebooks/assignments"


@pytest.mark.parametrize("kind", ["student", "solution", "nbgrader"])
@pytest.mark.parametrize("name", names())
def test_notebooks_are_valid(name, kind):
    nbformat = pytest.importorskip("nbformat")
    made = nbformat.reads(notebook(load(name), kind), as_version=4)
    nbformat.validate(made)
    assert len({c.id for c in made.cells}) == len(made.cells)


@pytest.mark.parametrize("name", names())
def test_a_student_sees_no_solution(name):
    assignment = load(name)
    student = "\n".join("".join(c["source"]) for c in json.loads(notebook(assignment))["cells"])
    assert "SOLUTION" not in student and "task(" not in student.replace("load(", "")
    for cell in assignment.cells:
        if cell.kind == "grader":
            assert cell.source not in student
        if cell.kind in ("task", "question"):
            assert cell.solved != cell.unsolved, f"{cell.options} has no solution between the marks"
            inside = cell.source.split("### BEGIN SOLUTION\n")[1].split("### END SOLUTION")[0].strip()
            assert inside not in student


@pytest.mark.parametrize("name", names())
def test_the_solution_notebook_runs_from_top_to_bottom(name):
    space = {}
    for cell in json.loads(notebook(load(name), "solution"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            if source.startswith("check("):
                checked = eval(source, space)  # how fast it is hangs on what else the machine does: test_course_grade.py has a race that cannot be lost
                assert checked.right or checked.result.to_dict()["misconceptions"] == ["right, but too slow"], f"{source}: {checked}"
            else:
                exec(source, space)


@pytest.mark.parametrize(("name", "function"), TASKS)
def test_the_solution_is_right(name, function):
    """Against the bank's values where an output has a part there, and everywhere against its own check."""
    this = load(name).tasks[function]
    for seed in range(5):
        for case in this.draw(seed, hidden=True):
            expected = this.expected(case.values)
            assert len(expected) == len(this.outputs)
            for output, value in zip(this.outputs, expected):
                if output.bank and value.dtype == np.float32:
                    assert same(value, BANK[output.bank].right(case.values), case.rtol)
                elif output.bank:
                    np.testing.assert_allclose(value, BANK[output.bank].right(case.values), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("name", "function"), TASKS)
def test_every_task_has_points_and_lines(name, function):
    this = load(name).tasks[function]
    assert this.points > 0
    assert all(o.line or o.mistakes() for o in this.outputs)
    assert any(not c.edge for c in this.draw(0, hidden=False))


@lru_cache(maxsize=40)  # two tasks' seeds: the mistakes of one come one after the other
def drawn(name, function, seed):
    """Cases, and what the solution returns for each."""
    this = load(name).tasks[function]
    cases = this.draw(seed, hidden=True)
    return cases, {id(case.values): Task.expected(this, case.values) for case in cases}


@pytest.mark.parametrize(("name", "function", "output", "mistake"), ENTRIES, ids=[": ".join(e) for e in ENTRIES])
def test_every_mistake_listed_is_rejected_and_named(name, function, output, mistake, monkeypatch):
    this = load(name).tasks[function]
    k = [o.name for o in this.outputs].index(output)
    (wrong,) = (w for w in this.outputs[k].wrong if w.name == mistake)
    for seed in range(20):
        (cases, expected), answers = drawn(name, function, seed), []
        monkeypatch.setattr(this, "expected", lambda values: expected[id(values)])
        for case in cases:
            values = list(this.expected(case.values))
            if wrong.applies(case.values):
                with np.errstate(all="ignore"):
                    values[k] = np.asarray(wrong.gradient(case.values.copied()))
            answers.append({"result": tuple(values) if len(values) > 1 else values[0], "inputs": this.arguments(case.values)})
        result = judge(this, cases, answers)
        assert result.points < this.points
        assert [f.key for o in result.outputs if o.name == output for f in o.findings] == [mistake]
        assert not [f for o in result.outputs if o.name != output for f in o.findings]


# -- LayerNorm ------------------------------------------------------------------------------------------------------------------------------


def test_a3_against_the_library():
    a3 = load("a3").reference
    rng = np.random.RandomState(0)
    x, weight, bias, dy = rng.standard_normal((4, 3, 5)), rng.standard_normal(5), rng.standard_normal(5), rng.standard_normal((4, 3, 5))
    leaves = [tg.tensor(a, requires_grad=True) for a in (x, weight, bias)]
    y = tg.nn.functional.layer_norm(leaves[0], (5,), leaves[1], leaves[2], 0.3)
    y.backward(tg.tensor(dy))
    forward, xhat, _ = a3.layer_norm_forward(x, weight, bias, 0.3)
    np.testing.assert_allclose(forward, y.detach().numpy(), rtol=1e-12)
    np.testing.assert_allclose(a3.layer_norm_backward(dy, x, weight, 0.3), leaves[0].grad.numpy(), rtol=1e-10)
    np.testing.assert_allclose(a3.layer_norm_staged(dy, x, weight, 0.3)[3], leaves[0].grad.numpy(), rtol=1e-10)
    for mine, leaf in zip(a3.layer_norm_parameters(dy, xhat), leaves[1:]):
        np.testing.assert_allclose(mine, leaf.grad.numpy(), rtol=1e-12)


def test_check_in_a_cell(capsys):
    a3 = read(FOLDER / "a3_layer_norm.py")
    space = {"np": np}
    exec("def layer_norm_forward(x, weight, bias, eps):\n    return x, x, x\n", space)
    exec("def layer_norm_backward(dy, x, weight, eps):\n    _, h, r = layer_norm_forward(x, weight, 0.0, eps)\n    d = dy * weight\n"
         "    return r * (d - d.mean(-1, keepdims=True) - h * (d * h).mean(-1, keepdims=True))\n", space)  # fmt: skip
    mine = space["layer_norm_forward"]
    assert not a3.check(mine).right
    later = a3.check(space["layer_norm_backward"])
    assert later.right and "checked on the reference's layer_norm_forward" in str(later)
    assert space["layer_norm_forward"] is mine  # put back
    space["layer_norm_forward"].__code__ = a3.reference.layer_norm_forward.__code__
    assert a3.check(mine).right
    assert "reference" not in str(a3.check(space["layer_norm_backward"]))


def test_check_says_what_failed():
    a3 = load("a3")

    def layer_norm_forward(x, weight, bias, eps):
        return x + undefined  # noqa: F821

    assert "raised NameError: name 'undefined' is not defined" in str(a3.check(layer_norm_forward))

    def layer_norm_parameters(dy):
        return dy, dy

    assert "raised TypeError" in str(a3.check(layer_norm_parameters))

    def no_such_task():
        pass

    with pytest.raises(ValueError, match="a3 has no task no_such_task; it has layer_norm_forward"):
        a3.check(no_such_task)


def test_a_numeric_derivative_is_found_out_in_a_cell(monkeypatch):
    monkeypatch.setattr(assignment, "complex_step", lambda *a: False)  # by size alone
    a3 = load("a3")

    def layer_norm_backward(dy, x, weight, eps, h=1e-20):
        dx = np.empty_like(x)
        for j in range(x.shape[-1]):  # by complex steps, right to the last digit
            z = x.astype(complex)
            z[..., j] += 1j * h
            c = z - z.mean(-1, keepdims=True)
            dx[..., j] = ((dy * weight * c / np.sqrt((c * c).mean(-1, keepdims=True) + eps)).sum(-1)).imag / h
        return dx

    checked = a3.check(layer_norm_backward)
    assert not checked.right and "a derivative taken numerically" in str(checked)


# -- BatchNorm1d ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6, 5), (4, 5, 3)])
def test_a4_against_the_library(shape):
    a4 = load("a4").reference
    rng = np.random.RandomState(0)
    x, dy, weight, bias, mean = rng.standard_normal(shape), rng.standard_normal(shape), *rng.standard_normal((3, 5))
    var = rng.uniform(0.5, 2, 5)
    for training in (True, False):
        leaves = [tg.tensor(a, requires_grad=True) for a in (x, weight, bias)]
        buffers = tg.tensor(mean), tg.tensor(var)
        y = tg.nn.functional.batch_norm(leaves[0], *buffers, *leaves[1:], training, 0.2, 0.3)
        y.backward(tg.tensor(dy))
        if not training:
            np.testing.assert_allclose(a4.batch_norm_eval(x, weight, bias, mean, var, 0.3), y.detach().numpy(), rtol=1e-10)
            np.testing.assert_allclose(a4.batch_norm_eval_backward(dy, x, weight, mean, var, 0.3), leaves[0].grad.numpy(), rtol=1e-10)
            continue
        forward, xhat, _ = a4.batch_norm_train(x, weight, bias, 0.3)
        np.testing.assert_allclose(forward, y.detach().numpy(), rtol=1e-10)
        for mine, buffer in zip(a4.batch_norm_running(x, mean, var, 0.2), buffers):
            np.testing.assert_allclose(mine, buffer.numpy(), rtol=1e-12)
        np.testing.assert_allclose(a4.batch_norm_backward(dy, x, weight, 0.3), leaves[0].grad.numpy(), rtol=1e-10, atol=1e-14)
        np.testing.assert_allclose(a4.batch_norm_staged(dy, x, weight, 0.3)[3], leaves[0].grad.numpy(), rtol=1e-10, atol=1e-14)
        for mine, leaf in zip(a4.batch_norm_parameters(dy, xhat), leaves[1:]):
            np.testing.assert_allclose(mine, leaf.grad.numpy(), rtol=1e-12)


def test_a5_against_the_library():
    a5 = load("a5").reference
    rng = np.random.RandomState(0)
    shapes = {"W1": (5, 4), "b1": (5,), "gamma": (5,), "beta": (5,), "W2": (3, 5), "b2": (3,)}
    params = {n: rng.standard_normal(s) for n, s in shapes.items()}
    x, target = rng.standard_normal((6, 4)), rng.randint(0, 3, 6)
    leaves = {n: tg.tensor(a.copy(), requires_grad=True) for n, a in params.items()}
    optimizer = tg.optim.SGD(list(leaves.values()), lr=0.1, momentum=0.9)
    functional = tg.nn.functional
    losses, first = [], None
    for _ in range(4):
        hidden = functional.layer_norm(functional.linear(tg.tensor(x), leaves["W1"], leaves["b1"]), (5,), leaves["gamma"], leaves["beta"])
        loss = functional.cross_entropy(functional.linear(functional.relu(hidden), leaves["W2"], leaves["b2"]), tg.tensor(target))
        optimizer.zero_grad()
        loss.backward()
        first = first or {n: leaf.grad.numpy().copy() for n, leaf in leaves.items()}
        optimizer.step()
        losses.append(loss.item())
    mine = a5.gradients(params, x, target)
    for name, gradient in zip(("W2", "b2", "gamma", "beta", "W1", "b1"), mine[1:]):
        np.testing.assert_allclose(gradient, first[name], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(a5.train(params, x, target, 0.1, 0.9, 4)[0], losses, rtol=1e-9)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize(("eps", "said"), [("", "xhat: eps dropped (the line"), (" + 1e-7", "eps = 1e-5")])
def test_a5_wants_its_eps_in_either_precision(kind, eps, said):
    """Of an ordinary variance it is a part in 1e5, which float32's tolerance would let pass."""
    a5, space = load("a5"), {"np": np}
    (source,) = (c.solved for c in a5.cells if c.options.get("task") == "forward")
    exec(source.replace(" + EPS", eps), space)

    def forward(params, x):
        return space["forward"]({k: v.astype(kind) for k, v in params.items()}, x.astype(kind))

    for seed in range(5):
        checked = a5.check(forward, seed=seed)
        assert checked.result.points == 0 and said in str(checked) and str(checked).count("xhat: ") <= 1


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a6_kernels_say_what_numpy_says(kind):
    a6 = load("a6").reference
    rng = np.random.RandomState(0)
    x, dy, (weight, bias) = rng.standard_normal((7, 5)), rng.standard_normal((7, 5)), rng.standard_normal((2, 5))
    x, dy, weight, bias = (a.astype(kind) for a in (x, dy, weight, bias))
    close = {"rtol": 1e-4, "atol": 1e-5} if kind is np.float32 else {"rtol": 1e-10, "atol": 1e-12}
    np.testing.assert_allclose(a6.layer_norm_kernel.py_func(x, weight, bias, 0.3), a6.layer_norm_numpy(x, weight, bias, 0.3), **close)
    for mine, theirs in zip(a6.layer_norm_backward_kernel.py_func(dy, x, weight, 0.3), a6.layer_norm_backward_numpy(dy, x, weight, 0.3)):
        assert mine.dtype == kind
        np.testing.assert_allclose(mine, theirs, **close)


def test_a_kernel_is_checked_before_it_is_compiled(capsys):
    """What is wrong, or outside of an array, which compiled code does not notice, is said at once; what is right is compiled and checked again."""
    numba, a6 = pytest.importorskip("numba"), load("a6")
    source = next(c.solved for c in a6.cells if c.options.get("task") == "relu_kernel")
    for old, new, said in (
        ("0 if x[n, j] <= 0 else x[n, j]", "x[n, j] if x[n, j] > 0 else 0", "NaN becomes 0"),
        ("range(x.shape[1])", "range(x.shape[1] + 1)", "raised IndexError"),
        ("y[n, j] = 0 if x[n, j] <= 0 else x[n, j]", "raise NotImplementedError()", "relu_kernel is not written yet"),
        ("", "", "2 of 2 points"),
    ):
        space = {"np": np, "njit": numba.njit}
        exec(source.replace(old, new), space)
        start = time.monotonic()
        checked = a6.check(space["relu_kernel"])
        assert said in str(checked)
        printed = capsys.readouterr().out
        if old:
            assert not checked.right and not space["relu_kernel"].signatures and not printed and time.monotonic() - start < 1
        else:
            assert checked.right and len(space["relu_kernel"].signatures) == 2 and "as plain Python right; now it is compiled" in printed


def test_another_dtype_is_told():
    this = Task("f", 1, lambda x: x, lambda rng: [Case("float32", Values(x=np.ones(2, np.float32)))], [Output("y")], float32=False, same_dtype=True)
    cases = this.draw(0, True)
    result = judge(this, cases, [{"result": np.ones(2), "inputs": this.arguments(cases[0].values)}])
    assert result.points == 0.7 and "it is float64 where float32 is expected" in result.lines()[0]


# -- The format ---------------------------------------------------------------------------------------------------------------------------------

SOURCE = '''# %% [markdown]
# # A tiny one
# %% setup
import numpy as np
# %% task="double" points=2
def double(x):
    ### BEGIN SOLUTION
    return 2 * x
    ### END SOLUTION
# %%
check(double)
# %% grader
from tinygrad_norm.course.task import Case, Output, Values, Wrong, task
task(double, cases=lambda rng: [Case("general", Values(x=rng.standard_normal(3)))], outputs=[Output("y", wrong=[Wrong("forgot 2", "y = 2x", lambda v: v.x)])])
# %% [markdown] question="why" points=1.5
# Why?
# ### BEGIN SOLUTION
# Because.
# ### END SOLUTION
'''


def test_a_source_of_ones_own(tmp_path):
    path = tmp_path / "b1_tiny.py"
    path.write_text(SOURCE)
    tiny = load(str(path))
    assert (tiny.id, tiny.title, tiny.out_of) == ("b1", "A tiny one", 3.5)
    assert [c.kind for c in tiny.cells] == ["text", "setup", "task", "given", "grader", "question"]
    assert tiny.questions[0].text == "Why?" and tiny.questions[0].answer == "Because."

    def double(x):
        return x

    assert "forgot 2 (the line it breaks: y = 2x)" in str(tiny.check(double))
    assert "look again at: y = 2x" in str(tiny.check(double, hints="term"))
    assert "2x" not in str(tiny.check(double, hints="none"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("# %% grader", "# %% gradr"), "a cell begins with '# %% gradr'"),
        ((' points=2\ndef', '\ndef'), r"task\(double\) needs a cell before it"),
        (("task(double,", "(lambda *a, **k: 0)(double,"), "no grader cell calls task"),
    ],
)
def test_faults_of_a_source(tmp_path, change, said):
    path = tmp_path / "b2_faulty.py"
    path.write_text(SOURCE.replace(*change))
    with pytest.raises(ValueError, match=said):
        read(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("return 2 * x", "return 2 * * x"), "line 8 (return 2 * * x): SyntaxError: invalid syntax; correct the source"),
        (("return 2 * x", "return 2 * z"), "line 8 (return 2 * z): NameError: name 'z' is not defined"),
        (("import numpy as np\n# %%", "import numpy as np\n# %%\nfactor = two\n# %%"), "line 6 (factor = two): NameError"),
        (("import Case,", "import Cases,"), "line 13 (from tinygrad_norm.course.task import Cases, Output, Values, Wrong, task): ImportError"),
        (("cases=", "casez="), "TypeError: task() missing 1 required keyword-only argument: 'cases'"),
        (("double, cases", "double, second=2, cases"), "line 13: TypeError: Task.__init__() got an unexpected keyword argument 'second'"),
        (("[Case(", "None and [Case("), "line 6: TypeError: 'NoneType' object is not iterable"),
        (("v.x", "v.y"), "AttributeError: y; correct the source"),
        (("task(", "raise SystemExit(3)\ntask("), "line 14 (raise SystemExit(3)): SystemExit: 3"),
        ((" points=2", ' points="two"'), "line 5: a cell begins with '# %% task=\"double\" points=\"two\"'; points must be a number"),
        ((" points=2", " points=-2"), "points must be a number and not negative, as points=3"),
        (("    ### END SOLUTION\n", ""), "line 5: a solution stands between ### BEGIN SOLUTION and ### END SOLUTION"),
        (("# %% grader", '# %% task="double" points=1\ndef double(x): return 2 * x\n# %% grader'), "line 12: there is a cell for the task double before this one"),
        (("Output(", 'Output("z"), Output('), "line 6: the solution of double must be right in each of its cases; double returned one thing"),
        (("double, cases", "double, uses=('half',), cases"), "line 6: uses=['half']: there is no such task"),
        (("tiny", "ti\udcf6ny"), "is no UTF-8"),
    ],
)
def test_faults_of_a_source_are_one_line_on_the_command_line(tmp_path, capsys, change, said):
    """The file, the line in it, what is wrong and what to do; exit code 2, before anything is written."""
    path = tmp_path / "b2_faulty.py"
    assert change[0] in SOURCE
    path.write_bytes(SOURCE.replace(*change).encode("utf-8", "surrogateescape"))
    for words in (["course", "export", str(path), "--to", "plain", "-o", str(tmp_path / "out")], ["check", str(path), "--assignment", str(path)]):
        assert main(words) == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1 and "error: b2_faulty.py" in told and said in told
    assert not (tmp_path / "out").exists()


def test_task_belongs_into_a_source():
    with pytest.raises(RuntimeError, match="belongs into a grader cell"):
        task(len, cases=lambda rng: [], outputs=[])


def test_unknown_assignment():
    with pytest.raises(ValueError, match="there is no assignment 'a77'; there are"):
        load("a77")
    with pytest.raises(ValueError, match=r"there is no file b1\.py; give the path"):
        load("b1.py")
    with pytest.raises(ValueError, match="kind is student"):
        notebook(load("a3"), "teacher")


def test_jupytext_reads_a_source():
    jupytext = pytest.importorskip("jupytext")
    for name in names():
        text = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
        assert len(jupytext.reads(text, fmt="py:percent").cells) == len(parse(text))


def test_a_case_without_general_answer():
    """All cases raise: that is said, with nothing else."""
    this = Task("f", 1, lambda x: x, lambda rng: [Case("one", Values(x=1.0))], [Output("y")])
    result = judge(this, this.draw(0, True), [{"error": {"kind": "ZeroDivisionError", "said": "division by zero", "where": "cell 1", "line": 2, "text": "1 / 0"}}])
    assert result.lines() == ["f raised ZeroDivisionError: division by zero (in cell 1, line 2: 1 / 0)"]

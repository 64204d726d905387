"""Every notebook runs from clean, with torch and without, and stands committed as a reader on a code host is to see it.

`python tests/test_notebooks.py notebooks/03_layer_norm.ipynb` runs a notebook and writes it back so: with its outputs, and nothing of the machine.
"""

import ast
import json
import os
import platform
import re
import sys
import tempfile
import time
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="pip install 'tinygrad_norm[notebooks]'")
nbclient = pytest.importorskip("nbclient", reason="pip install 'tinygrad_norm[notebooks]'")
pytest.importorskip("ipykernel", reason="pip install 'tinygrad_norm[notebooks]'")

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LONGEST = 60  # seconds
LARGEST = 1.5e6  # bytes
METADATA = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}, "language_info": {"name": "python"}}
NUMBER = re.compile(r"\d+(\.\d+)?(e[-+]?\d+)?")
PRIVATE = re.compile(
    r"""(?<![\w:/.])/(?:tmp|home|root|usr|opt|work|var|mnt|Users|private|proc|srv|data)/  # a path of somebody's machine
    | \b[A-Z]:\\\\?\w | \b0x[0-9a-f]{8,} | <ipython-input | ipykernel_\d+""",
    re.VERBOSE,
)
# Jupyter's own machinery, in this process; a warning within a notebook fails its test by what stands on stderr.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:zmq", "ignore::DeprecationWarning:jupyter_client", "ignore::DeprecationWarning:nbclient")
every = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


def load(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def imports_torch(cell):
    for node in ast.walk(ast.parse(cell.source)):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if any(name.partition(".")[0] == "torch" for name in names):
            return True
    return False


def first_with_torch(notebook):
    """The number, among the code cells, of the first that imports torch; of none, their number."""
    cells = code_cells(notebook)
    return next((i for i, cell in enumerate(cells) if imports_torch(cell)), len(cells))


def outputs(notebook):
    return [(i, output) for i, cell in enumerate(code_cells(notebook)) for output in cell.outputs]


def answers(notebook):
    """The code in the folded answers, each as a cell."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    folded = "\n".join(re.findall(r"<details>(.*?)</details>", text, re.DOTALL))
    return [nbformat.v4.new_code_cell(code) for code in re.findall(r"^```python\n(.*?)^```", folded, re.DOTALL | re.MULTILINE)]


# Up to the first cell that imports torch, a run with torch and one without it are the same run. There the kernel forks: its child, for which
# torch is hidden, goes on by itself and writes down what each further cell prints, and the error that ends it.
FORK = """
import json as _json, os as _os, sys as _sys, warnings as _warnings
if "torch" in _sys.modules:
    raise AssertionError("torch was imported before the first cell that imports it")
with _warnings.catch_warnings():
    _warnings.simplefilter("ignore", DeprecationWarning)  # CPython 3.12 on fork: the kernel has threads, of which the child uses none
    _child = _os.fork()
if _child == 0:
    _code = 1
    try:
        from IPython.utils.capture import capture_output as _capture
        _sys.path.insert(0, {hidden!r})
        _os.environ["PYTHONPATH"] = {hidden!r} + _os.pathsep + _os.environ["PYTHONPATH"]
        _cells = []
        for _source in {sources!r}:
            with _capture() as _said:
                _result = get_ipython().run_cell(_source)
            _cells.append((_said.stdout, None if _result.success else repr(_result.error_before_exec or _result.error_in_exec)))
            if not _result.success:
                break
        with open({file!r}, "w", encoding="utf-8") as _file:
            _json.dump(_cells, _file)
        _code = 0
    finally:
        _os._exit(_code)
"""
JOIN = "assert _os.waitpid(_child, 0)[1] == 0, 'the run without torch ended its process'"
# The garbage collector goes through all of torch again and again, while it is imported and once more when a kernel winds up: that took a quarter
# of a notebook's time. So here it looks seldom, and the kernel is killed at the end.
SELDOM = "import gc as _gc; _gc.set_threshold(100_000, 20, 100)"
NEVER = "import sys as _sys; assert 'torch' not in _sys.modules, 'torch was imported by a cell that does not say so'"


def execute(path, folder, with_answers=False, also_without_torch=False):
    """The notebook, run in a kernel of its own whose settings, history and working folder are empty; and, for each code cell from
    the first that imports torch on, what it prints without torch, and the error it ends with."""
    notebook = load(path)
    cells = notebook.cells
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    before, after = list(cells), answers(notebook) if with_answers else []
    written = folder / "without_torch.json"
    if also_without_torch:
        with_torch = code_cells(notebook)[first_with_torch(notebook) :]
        (folder / "hidden" / "torch").mkdir(parents=True)
        (folder / "hidden" / "torch" / "__init__.py").write_text("raise ImportError('torch is hidden')\n")
        if with_torch:
            fork = FORK.format(hidden=str(folder / "hidden"), sources=[cell.source for cell in with_torch], file=str(written))
            before.insert(cells.index(with_torch[0]), nbformat.v4.new_code_cell(fork))
        before.insert(0, nbformat.v4.new_code_cell(SELDOM))
        after = [*after, nbformat.v4.new_code_cell(JOIN if with_torch else NEVER)]
    notebook.cells = [*before, *after]
    own = {name: str(folder / name.lower()) for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")}
    search = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    client = nbclient.NotebookClient(
        notebook, timeout=LONGEST * 3, kernel_name="python3", record_timing=False, coalesce_streams=True, shutdown_kernel="immediate", resources={"metadata": {"path": str(folder)}}
    )
    client.execute(env={**os.environ, **own, "PYTHONPATH": search, "MPLBACKEND": "module://matplotlib_inline.backend_inline"})
    notebook.cells = cells
    return notebook, json.loads(written.read_text(encoding="utf-8")) if written.exists() else []


def test_there_are_notebooks():
    assert NOTEBOOKS
    assert len({p.name[:2] for p in NOTEBOOKS}) == len(NOTEBOOKS), "two notebooks share a number"


@every
def test_runs_from_clean_with_torch_and_without(path, tmp_path):
    begun = time.perf_counter()
    run, without_torch = execute(path, tmp_path, with_answers=True, also_without_torch=True)  # raises where a cell does: an assertion about a figure is such a cell
    assert time.perf_counter() - begun < LONGEST
    said = "".join(output.text for _, output in outputs(run) if output.output_type == "stream" and output.name == "stderr")
    assert "Warning" not in said, said
    committed = [[o.output_type for o in cell.outputs if o.get("name") != "stderr"] for cell in code_cells(load(path))]
    fresh = [[o.output_type for o in cell.outputs if o.get("name") != "stderr"] for cell in code_cells(run)]
    for i, (before, now) in enumerate(zip(committed, fresh)):
        assert sorted(set(before)) == sorted(set(now)), f"code cell {i} gives another kind of output than the one committed"
    for cell, now in zip(code_cells(load(path)), code_cells(run)):
        if re.search(r"^\s*show\(", cell.source, re.MULTILINE):  # the library's source: what is committed is what stands there today
            assert printed(cell) == printed(now), f"the library has changed: python tests/test_notebooks.py notebooks/{path.name}"
    for cell, (said, error) in zip(code_cells(run)[first_with_torch(run) :], without_torch):
        assert error is None, f"without torch the cell that begins {cell.source[:60]!r} raises {error}"
        if imports_torch(cell):
            assert "torch" in said, f"the cell that begins {cell.source[:60]!r} imports torch and says nothing where it is missing"


def printed(cell):
    return NUMBER.sub("#", "".join(o.text for o in cell.outputs if o.get("name") == "stdout"))


@every
def test_begins_with_what_one_will_be_able_to_do(path):
    first = load(path).cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith(f"# {path.stem[:2]} · "), "the title is '# 01 · …'"
    assert re.search(r"you can\b|able to", first.source)
    assert len(re.findall(r"^[-*] ", first.source, re.MULTILINE)) >= 3, "a list of what one can do"


@every
def test_ends_with_three_exercises_whose_answers_are_hidden(path):
    cells = load(path).cells
    starts = [i for i, cell in enumerate(cells) if cell.cell_type == "markdown" and re.search(r"^## .*Exercises", cell.source, re.MULTILINE)]
    assert len(starts) == 1, "one section '## … Exercises'"
    text = "\n".join(cell.source for cell in cells[starts[0] :] if cell.cell_type == "markdown")
    assert len(re.findall(r"^<details>\s*$", text, re.MULTILINE)) == 3
    assert text.count("<summary>") == text.count("</summary>") == text.count("</details>") == 3
    assert "<details open" not in text
    assert not [c for c in "\n".join(cell.source for cell in cells[: starts[0]]).split("\n") if c.startswith("<details")]


@every
def test_equations_have_the_numbers_of_the_rooms_it_names(path):
    cells = load(path).cells
    rooms = [(ROOT / name).read_text() for name in re.findall(r"`(tinygrad_norm/[\w/]+\.py)`", cells[0].source)]
    tags = {int(tag) for cell in cells if cell.cell_type == "markdown" for tag in re.findall(r"\\tag\{(\d+)\}", cell.source)}
    assert rooms or not tags, "numbered equations: the first cell is to name the source that they are from"
    assert not [tag for tag in tags if not any(re.search(rf"\({tag}\)", room) for room in rooms)]


@every
def test_is_committed_executed(path):
    notebook = load(path)
    nbformat.validate(notebook)
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1)), "not run from clean, top to bottom"
    found = outputs(notebook)
    assert not [i for i, o in found if o.output_type == "error"]
    assert not [i for i, o in found if o.get("name") == "stderr"], "a line on stderr belongs to one machine"
    assert [o for _, o in found if "image/png" in o.get("data", {}) or "image/svg+xml" in o.get("data", {})], "no picture"
    silent = [cell for cell in code_cells(notebook) if not cell.outputs and re.search(r"^(print|display)\(|plt\.show\(\)", cell.source, re.MULTILINE)]
    assert not silent, f"prints or plots, and has no output: {silent[0].source[:80]}"


@every
def test_tells_nothing_of_the_machine_it_ran_on(path):
    assert path.stat().st_size < LARGEST
    notebook = load(path)
    assert notebook.metadata.kernelspec == METADATA["kernelspec"]
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}, "widgets' state, paths of editors"
    assert set(notebook.metadata.get("language_info", {})) <= {"name"}, "the version is that of one machine"
    for cell in notebook.cells:
        assert "execution" not in cell.metadata, "execution times"
        assert not set(cell.metadata) - {"tags"}
    texts = [cell.source for cell in notebook.cells]
    for _, output in outputs(notebook):
        texts += [output.get("text", "")] + ["".join(v) for kind, v in output.get("data", {}).items() if kind != "image/png"]
    for text in texts:
        hit = PRIVATE.search(text)
        assert not hit, f"{hit.group()!r} in: {text[max(hit.start() - 60, 0) : hit.end() + 60]}"
        assert len(platform.node()) < 5 or platform.node() not in text, "the name of this machine"


@every
def test_is_linked_from_the_readme(path):
    assert f"(notebooks/{path.name})" in (ROOT / "README.md").read_text()


def write_back(path):
    """Runs a notebook and writes it where it stood."""
    with tempfile.TemporaryDirectory() as folder:
        notebook, _ = execute(path, Path(folder))
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k == "tags"})
    for cell in code_cells(notebook):
        cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
    nbformat.validate(notebook)
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        write_back(Path(name))

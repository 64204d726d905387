"""Every notebook runs from clean, with torch and without, and stands committed as a reader on a code host is to see it.

`python tests/test_notebooks.py notebooks/03_layer_norm.ipynb` runs a notebook and writes it back so: with its outputs, and nothing of the machine.
"""

import ast
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


def outputs(notebook):
    return [(i, output) for i, cell in enumerate(code_cells(notebook)) for output in cell.outputs]


def answers(notebook):
    """The code in the folded answers, each as a cell."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    folded = "\n".join(re.findall(r"<details>(.*?)</details>", text, re.DOTALL))
    return [nbformat.v4.new_code_cell(code) for code in re.findall(r"^```python\n(.*?)^```", folded, re.DOTALL | re.MULTILINE)]


def execute(path, folder, without_torch=False, with_answers=False):
    """The notebook, run in a kernel of its own whose settings, history and working folder are empty."""
    notebook = load(path)
    length = len(notebook.cells)
    notebook.cells += answers(notebook) if with_answers else []
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    search = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    if without_torch:
        (folder / "hidden" / "torch").mkdir(parents=True)
        (folder / "hidden" / "torch" / "__init__.py").write_text("raise ImportError('torch is hidden')\n")
        search.insert(0, str(folder / "hidden"))
    own = {name: str(folder / name.lower()) for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")}
    client = nbclient.NotebookClient(
        notebook, timeout=LONGEST * 3, kernel_name="python3", record_timing=False, coalesce_streams=True, resources={"metadata": {"path": str(folder)}}
    )
    client.execute(env={**os.environ, **own, "PYTHONPATH": os.pathsep.join(search), "MPLBACKEND": "module://matplotlib_inline.backend_inline"})
    notebook.cells = notebook.cells[:length]
    return notebook


def test_there_are_notebooks():
    assert NOTEBOOKS
    assert len({p.name[:2] for p in NOTEBOOKS}) == len(NOTEBOOKS), "two notebooks share a number"


@every
def test_runs_from_clean(path, tmp_path):
    begun = time.perf_counter()
    run = execute(path, tmp_path, with_answers=True)  # raises where a cell does: an assertion about a figure is such a cell
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


def printed(cell):
    return NUMBER.sub("#", "".join(o.text for o in cell.outputs if o.get("name") == "stdout"))


@every
def test_runs_without_torch_and_says_what_it_would_show(path, tmp_path):
    if not any("torch" in cell.source for cell in code_cells(load(path))):
        return  # the run above had none to hide
    run = execute(path, tmp_path, without_torch=True)
    for cell in code_cells(run):
        if any(True for _ in torch_imports(cell.source)):
            said = "".join(o.text for o in cell.outputs if o.output_type == "stream" and o.name == "stdout")
            assert "torch" in said, f"the cell that begins {cell.source[:60]!r} imports torch and says nothing where it is missing"


def torch_imports(source):
    for node in ast.walk(ast.parse(source)):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if any(name.partition(".")[0] == "torch" for name in names):
            yield node


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
        notebook = execute(path, Path(folder))
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

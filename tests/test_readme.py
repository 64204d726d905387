"""The README: every block in it is run, every command exits as it says, every picture is made anew, every link and name leads somewhere."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_pytest_plugin import INSTALLED

import tinygrad_norm as tg
from tinygrad_norm.bench import rows
from tinygrad_norm.course.sandbox import best_mode

if sys.version_info >= (3, 11):
    import tomllib

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.M | re.S)
SPANS = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", README, flags=re.M | re.S))
PICTURES = ROOT / "notebooks" / "pictures"
# Set-up, which other tests do: .ci/run installs and tests as the README says; the extras that are named are looked up below.
SETUP = {"python3 -m venv .venv", ". .venv/bin/activate", "pip install .", 'pip install -e ".[test]"', "pytest"}
INLINE = {'pip install ".[digits,plot]"', 'pip install -e ".[notebooks]"', "jupyter lab notebooks", "pytest -k normalize"}


def commands():
    """(command, the exit code that stands beside it, whether it is of the set-up) of every line of the bash blocks."""
    for language, code in BLOCKS:
        if language == "bash":
            for line in code.replace("\\\n", " ").splitlines():
                told, _, note = line.partition("#")
                for command in told.split("&&"):
                    code = re.match(r"\s*exit code (\d)", note)
                    yield " ".join(command.split()), int(code[1]) if code else 0, command.strip() in SETUP


def files():
    """Python blocks whose first line names a file."""
    return {m[1]: code for language, code in BLOCKS if language == "python" and (m := re.match(r"# (\S+\.py)\n", code))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the README's reader works: the files that it shows, and a class's submissions."""
    place = tmp_path_factory.mktemp("reader")
    for name, code in files().items():
        if "/" not in name:
            (place / name).write_text(code)
    for student, source in (("ada", "a3_layer_norm.ipynb"), ("bob", "a3_layer_norm.ipynb")):
        (place / "submissions" / student).mkdir(parents=True)
        shutil.copy(ROOT / "notebooks" / "assignments" / source, place / "submissions" / student)
    return place


def run(command, place):
    """As the reader does in a shell, with this Python and its scripts."""
    name, _, rest = command.partition(" ")
    assert name in ("tinygrad-norm", "pytest"), command
    if name == "pytest" and not INSTALLED:
        rest += " -p tinygrad_norm.pytest_plugin"
    if rest.startswith("grade") and best_mode()[0] == "plain":  # a machine without a sandbox
        rest += " --unsafe"
    path = f"{place}{os.pathsep}{os.environ.get('PYTHONPATH', ROOT)}"
    module = name.replace("-", "_")
    return subprocess.run(
        f"{sys.executable} -m {module} {rest}", shell=True, capture_output=True, text=True, cwd=place, timeout=600, env={**os.environ, "PYTHONPATH": path}
    )


def test_nothing_escapes():
    assert {language for language, _ in BLOCKS} == {"bash", "python", "text"}
    assert len(BLOCKS) == len(re.findall(r"^```\w", README, re.M)) == README.count("\n```\n")
    for command, _, setup in commands():
        assert setup or command.split()[0] == "tinygrad-norm" or command == "pytest test_my_norm.py", command
    shell = {span for span in SPANS if re.match(r"(tinygrad-norm|pip|pytest|python3?|jupyter)\b", span)}
    assert shell == INLINE
    assert sum(language == "text" for language, _ in BLOCKS) == 1


def test_python_blocks_run(folder):
    rest = [code for language, code in BLOCKS if language == "python" and not re.match(r"# \S+\.py\n", code)]
    assert rest
    for code in rest:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, timeout=300)
        assert done.returncode == 0, done.stderr
        assert "x.grad: 1.0 + 36.0 = 37.0" in done.stdout
    assert (folder / "graph.svg").read_text() == (PICTURES / "graph.svg").read_text()


def test_commands_run_and_print_what_is_shown(folder):
    printed = {}
    for command, code, setup in commands():
        if not setup:
            done = run(command, folder)
            assert done.returncode == code, f"{command}\n{done.stdout}{done.stderr}"
            printed[command] = done.stdout
    assert printed["tinygrad-norm train"] == next(code for language, code in BLOCKS if language == "text")
    assert "variance" in printed["tinygrad-norm gradcheck my_norm.py:MyLayerNorm --shapes 3,4 4"]
    assert "1 failed, 1 passed" in printed["pytest test_my_norm.py"] and "variance" in printed["pytest test_my_norm.py"]
    assert [line[:12] for line in printed["tinygrad-norm train --resume run.npz --steps 20"].splitlines()[:2]] == ["Step [15/20]", "Step [20/20]"]
    assert sorted(os.listdir(folder / "grades")) == ["class.html", "class.json", "class.txt", "grades.csv", "students"]


def test_the_training_curve_is_what_its_command_draws(folder):
    command = next(command for command, _, _ in commands() if "--plot training_curve.png" in command)
    if not (folder / "training_curve.png").exists():  # this test alone
        assert run(command, folder).returncode == 0
    from matplotlib.image import imread

    ours, theirs = (imread(place / "training_curve.png")[..., :3] for place in (folder, PICTURES))
    assert ours.shape == theirs.shape
    assert abs(ours - theirs).mean() < 0.02
    assert (theirs[0] == 1).all()  # on white, also in a dark page


def test_a_layer_is_added_as_it_says(tmp_path):
    """The room and the lines of the table put into a copy of the sources: the tests that read the tables find the layer."""
    for name in ("tinygrad_norm", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.ipynb"))
    (room,) = (name for name in files() if "/" in name)
    (tmp_path / room).write_text(files()[room])
    lines = re.findall(r"^\| `([\w/.]+)`(?:, in `(\w+)`)?(?:, above `([\w.]+)`)? \| `(.+)` \|$", README, re.M)
    assert len(lines) == 4
    for name, table, below, line in lines:
        text = (tmp_path / name).read_text()
        opening = re.search(rf"^{table or 'FORMULAS'}\b.* = [\[{{]\n", text, re.M)  # formulas.py is one table
        changed = line + "\n" + text if opening is None else text[: opening.end()] + f"    {line}\n" + text[opening.end() :]
        if opening is None:  # an import, after those that are there
            first = text.index("from .")
            changed = text[:first] + line + "\n" + text[first:]
        if below:
            changed = text.replace(f'    {{"{below}"}},\n', f'    {line}\n    {{"{below}"}},\n')
        (tmp_path / name).write_text(changed)
    wanted = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_ops.py", "tests/test_structure.py", "tests/test_graph.py"]
    done = subprocess.run(
        [*wanted, "-k", "normalize or every_op_has_its_formula or imports_only_go_down"],
        capture_output=True, text=True, cwd=tmp_path, timeout=600, env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 8


def test_links_and_names_lead_somewhere():
    headings = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.*)", README, re.M)}
    targets = re.findall(r"\]\(([^)]+)\)", README)
    assert len(targets) > 15
    for target in targets:
        assert target[1:] in headings if target.startswith("#") else (ROOT / target).exists(), target
    for span in SPANS:
        if re.fullmatch(r"(tinygrad_norm|notebooks|tests)/[\w/.]+", span):
            assert (ROOT / span).exists(), span
        elif re.fullmatch(r"(\w+/)?\w+\.py", span):
            assert any((ROOT / "tinygrad_norm" / room / Path(span).name).exists() for room in ("", "nn")), span
        elif m := re.match(r"tg((?:\.\w+)+)", span):
            value = tg
            for part in m[1][1:].split("."):
                value = getattr(value, part)
    for name in ("gradgradcheck", "check_norm_invariants", "gradcheck_power"):
        assert f"`{name}`" in README and hasattr(tg.autograd, name)
    assert hasattr(importlib.import_module("tinygrad_norm.pytest_plugin"), "torch_compare")


def test_the_bench_has_as_many_bounds_as_it_says():
    table = list(rows.table())
    straight = {row.arguments["module"] for row in table if row.measure == "linear"}  # one figure for all sizes of a module
    bounds = sum(len(row.asked) + (row.threads is not None) for row in table) + len(straight)
    assert f"of the bench's {bounds} bounds" in README


def test_the_two_commands_are_as_ci_runs_them():
    setup = [code for language, code in BLOCKS if language == "bash" and "python3 -m venv" in code]
    assert len(setup) == 2
    assert "pip install . && tinygrad-norm train" in setup[0]
    assert 'pip install -e ".[test]" && pytest' in setup[1]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")
def test_the_extras_that_it_names_are_there():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {extra for list_ in re.findall(r"pip install (?:-e )?\"\.\[([\w,]+)\]", README) for extra in list_.split(",")}
    assert named == {"test", "digits", "plot", "notebooks"}
    assert named <= set(extras)
    assert any(package.startswith("jupyterlab") for package in extras["notebooks"])

"""The house: imports only go down its floors, and nothing stands twice at the top level."""

import ast
from pathlib import Path

import pytest

import tinygrad_norm

PACKAGE = Path(tinygrad_norm.__file__).parent
ROOT = Path(__file__).parent.parent
FLOORS = [
    {"dtype", "grad_mode", "printing", "kernel", "plotting", "quiet", "rounding"},
    {"mersenne"},
    {"random"},
    {"notebook"},
    {"tensor"},
    {"function"},
    {"walk"},
    {"ops", "interchange"},
    {"creation"},
    {"nn.parameter", "nn.state"},
    {"nn.register"},
    {"nn.module"},
    {"nn.init", "nn.containers", "nn.utils"},
    {"nn.linear", "nn.softmax", "nn.dropout", "nn.embedding", "nn.norm"},
    {"nn.activation", "nn.attention"},
    {"nn.layer_norm"},
    {"nn.rms_norm", "nn.group_norm", "nn.batch_norm", "nn.layer_norm_variants", "nn.transformer"},
    {"nn.instance_norm", "nn.masked_norm"},
    {"nn.cross_entropy"},
    {"nn.loss", "nn.recurrent", "nn.sequences"},
    {"nn.functional"},
    {"nn"},
    {"methods"},
    {"optim", "summary"},
    {"data"},
    {"utils"},
    {"serialization", "runs"},
    {"train"},
    {"train_chars", "train_sequence", "experiment", "experiment_report"},
    {"samples", "testing"},
    {"autograd"},
    {"bench"},
    {"course"},
    {"pytest_plugin"},
    {"graph"},
    {""},
    {"cli"},
    {"__main__"},
]
OPTIONAL = {"torch", "jax", "numba", "sklearn", "matplotlib", "tqdm", "rich", "safetensors", "IPython"}


def floor(module):
    """The number of the floor a module of the package stands on: that of its longest name there."""
    for i, names in enumerate(FLOORS):
        for name in names:
            if module == name:
                return i
    parent = module.rpartition(".")[0]
    assert parent, f"{module} has no floor"
    return floor(parent)


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imported(name, path, tree):
    """(module of the package, line, whether inside a function) for every import that is not only for type checkers."""
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    typing_only = {id(n) for i in ast.walk(tree) if isinstance(i, ast.If) and ast.unparse(i.test) == "TYPE_CHECKING" for b in i.body for n in ast.walk(b)}
    inside = {id(n) for f in ast.walk(tree) if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef)) for n in ast.walk(f)}
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package.split(".") if package else []
            base = base[: len(base) - (node.level - 1)]
            target = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            for alias in node.names:
                full = f"{target}.{alias.name}".strip(".")
                is_module = (PACKAGE / Path(*full.split("."))).with_suffix(".py").exists() or (PACKAGE / Path(*full.split(".")) / "__init__.py").exists()
                yield (full if is_module else target), node.lineno, id(node) in inside
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            for top in [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]:
                yield "external:" + top.split(".")[0], node.lineno, id(node) in inside


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=lambda v: str(v) if isinstance(v, str) else "")
def test_imports_only_go_down(name, path):
    tree = ast.parse(path.read_text())
    for target, line, inside in imported(name, path, tree):
        where = f"{path.relative_to(PACKAGE)}:{line} imports {target}"
        if target.startswith("external:"):
            module = target.partition(":")[2]
            if module in OPTIONAL and path.parent.name != "assignments":  # cells of a notebook, which nothing imports
                assert inside, f"{where} at its top: optional packages are imported where they are used"
            continue
        if name in ("cli", "__main__"):  # thin, at the top of the house: each command imports what it calls
            continue
        assert floor(target) <= floor(name), f"{where}: upward"
        if not (name.startswith("autograd") and path.stem == "__init__"):  # its heavy modules are resolved when they are asked for
            assert not inside, f"{where} inside a function"


def test_top_level_is_the_owners():
    allowed = {"tinygrad_norm", "notebooks", "tests", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"}
    caches = {"build", "dist", "venv", "__pycache__"}
    found = {p.name for p in ROOT.iterdir() if not p.name.startswith(".") and not p.name.endswith(".egg-info")} - caches
    assert found <= allowed


def test_every_public_name_is_there_and_documented():
    missing = []
    for name in tinygrad_norm.__all__:
        value = getattr(tinygrad_norm, name)
        if callable(value) and not getattr(value, "__doc__", None):
            missing.append(name)
    assert not missing
    assert {"tensor", "nn", "optim", "autograd", "manual_seed", "no_grad", "Tensor"} <= set(tinygrad_norm.__all__)


def test_what_is_not_there_says_so():
    with pytest.raises(AttributeError, match="keeps the part of torch"):
        _ = tinygrad_norm.cumsum

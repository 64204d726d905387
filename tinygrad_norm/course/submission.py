"""What a student handed in: a notebook or a Python file, alone, in a folder or in a zip. It is read here and never run here."""

from __future__ import annotations

import codecs
import hashlib
import io
import json
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from .assignment import Assignment, load, names

__all__ = ["Submission", "assignment_of", "find", "read_file"]

LARGEST = 8 << 20  # bytes of one file; a notebook with pictures has less
MOST = 2000  # files looked at in one folder or zip
KINDS = (".ipynb", ".py", ".zip")
WRITTEN = ("grades.csv", "class.json", "class.html", "class.txt", "students")  # into the folder of the results


@dataclass
class Submission:
    """One student's work.

    Attributes:
        name: of the file or folder, for the reports.
        cells: the code, cell by cell.
        answers: to the written questions, by name.
        problem: why it could not be read; it is graded all the same, with 0 points.
        digest: of its content.
    """

    name: str
    cells: list[str] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)
    problem: str | None = None
    digest: str = ""

    @property
    def code(self) -> str:
        """All of it in one text."""
        return "\n".join(self.cells)


# -- 1. One file ----------------------------------------------------------------------------------------------------------------------------


def read_file(name: str, file: str, data: bytes) -> Submission:
    """The submission in one .ipynb or .py.

    Args:
        name: of the submission. file: name of the file. data: its bytes.
    """
    made = Submission(name, digest=hashlib.sha256(data).hexdigest()[:16])
    try:
        if len(data) > LARGEST:
            raise ValueError(f"{file} is too large: more than {LARGEST >> 20} MiB")
        text = data.decode("utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig", "replace")
        if file.lower().endswith(".ipynb"):
            _read_notebook(made, text)
        else:
            _read_script(made, text)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        said = f"{file} is no notebook: {error}" if file.lower().endswith(".ipynb") and not str(error).startswith(file) else str(error)
        made.problem, made.cells = said[:300], []
    return made


def _read_notebook(made: Submission, text: str) -> None:
    notebook = json.loads(text)
    if not isinstance(notebook, dict) or not isinstance(notebook.get("cells"), list):
        raise ValueError("there is no list of cells in it (nbformat 4)")
    for cell in notebook["cells"]:
        source = "".join(cell.get("source") or "")  # a text or a list of lines
        if cell.get("cell_type") == "code":
            made.cells.append(source)
        else:
            metadata = cell.get("metadata") or {}
            question = (metadata.get("tinygrad_norm") or {}).get("question") or (metadata.get("nbgrader") or {}).get("grade_id")
            if question:
                made.answers[str(question)] = source


def _read_script(made: Submission, text: str) -> None:
    for part in re.split(r"^(?=# %%)", text, flags=re.M):
        head, _, body = part.partition("\n")
        question = re.search(r'question="(\w+)"', head) if head.startswith("# %%") else None
        if question:
            made.answers[question.group(1)] = re.sub(r"^# ?", "", body, flags=re.M)
        elif part.strip() and not (head.startswith("# %%") and "[markdown]" in head):
            made.cells.append(part)


# -- 2. Folders and zips --------------------------------------------------------------------------------------------------------------------


def find(paths: Sequence[str | Path], wanted: Sequence[str] = (), one: bool = False, out: Path | None = None) -> Iterator[Submission]:
    """The submissions in these places, one for each file given, and one for each entry of a folder or zip given.

    Args:
        paths: .ipynb, .py; or a folder or zip of one entry a student: a file, a folder or a zip.
        wanted: names of functions; where an entry holds several files, the one with most of them counts.
        one: each folder or zip is one submission.
        out: where the results go; it may lie among the submissions, and is none.
    Raises:
        ValueError: a path that is not there, or of another kind.
    """
    for given in paths:
        path = Path(given)
        if not path.exists():
            raise ValueError(f"there is no {path}")
        if one:
            yield from _entry(path.resolve(), wanted)
        elif path.is_dir():
            for entry in sorted(path.iterdir()):
                if not _passed_over(entry.name) and not _results(entry, out):
                    yield from _entry(entry, wanted)
        elif path.suffix.lower() == ".zip":
            yield from _class_zip(path, wanted)
        elif path.suffix.lower() in (".ipynb", ".py"):
            yield from _entry(path, wanted)
        else:
            raise ValueError(_of_no_kind(path))


def _of_no_kind(path: str | Path) -> str:
    return f"{path} is no submission: expected .ipynb, .py, .zip or a folder"


def _passed_over(name: str) -> bool:
    return name.startswith((".", "__")) or name in ("Thumbs.db", "desktop.ini")


def _results(entry: Path, out: Path | None) -> bool:
    """Whether grading wrote it: now, or before into another folder."""

    def written(folder: Path) -> bool:
        return (out is not None and folder.resolve() == out.resolve()) or all((folder / name).exists() for name in WRITTEN)

    return written(entry) or (entry.name in WRITTEN and written(entry.parent))


def _entry(path: Path, wanted: Sequence[str]) -> Iterator[Submission]:
    if path.is_symlink():
        yield Submission(path.name, problem="it is a link, not a file")
    elif path.is_dir():
        files: dict[str, bytes] = {}
        for root, folders, inside in os.walk(path):
            folders[:] = [f for f in sorted(folders) if not _passed_over(f)]
            for file in sorted(inside):
                place = Path(root, file)
                if place.suffix.lower() in KINDS and not _passed_over(file) and len(files) < MOST:
                    files[str(place.relative_to(path))] = _bytes(place)
        yield _best(path.name, files, wanted)
    elif path.suffix.lower() == ".zip":
        yield _best(path.stem, _unzip(path.name, _bytes(path)), wanted)
    elif path.suffix.lower() in (".ipynb", ".py"):
        yield read_file(path.stem, path.name, _bytes(path))
    else:
        yield Submission(path.name, problem=_of_no_kind(path.name))


def _bytes(path: Path) -> bytes:
    """At most LARGEST + 1 bytes of a regular file; nothing of a link, a pipe or a device."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return b""
    with os.fdopen(handle, "rb") as file:
        return file.read(8 * LARGEST if path.suffix.lower() == ".zip" else LARGEST + 1) if stat.S_ISREG(os.fstat(handle).st_mode) else b""


def _unzip(name: str, data: bytes) -> dict[str, bytes] | str:
    """The notebooks and scripts in a zip, unpacked in memory and each cut off at LARGEST, and the bare names of what else is there; or why not."""
    files: dict[str, bytes] = {}
    count = size = 0
    if len(data) >= 8 * LARGEST:
        return f"{name} is larger than {8 * LARGEST >> 20} MiB: unpack it, and grade the folder"
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for info in archive.infolist():
                inside = PurePosixPath(info.filename)
                if not inside.parts or any(map(_passed_over, inside.parts)):
                    continue
                files[info.filename] = b""
                if inside.suffix.lower() in KINDS and not info.is_dir():
                    if count >= MOST:
                        return f"{name} holds more than {MOST} notebooks and scripts: unpack it, and grade the folder"
                    if size > 8 * LARGEST:
                        return f"{name} unpacks to more than {8 * LARGEST >> 20} MiB: unpack it, and grade the folder"
                    with archive.open(info) as file:
                        files[info.filename] = file.read(LARGEST + 1)
                    count, size = count + 1, size + len(files[info.filename])
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, OSError, EOFError, ValueError, zlib.error) as error:
        return f"{name} cannot be unpacked: {error}"
    return files


def _class_zip(path: Path, wanted: Sequence[str]) -> Iterator[Submission]:
    """A zip of everyone's: one entry for each folder or file at its top, below a single folder that holds all."""
    files = _unzip(path.name, _bytes(path))
    if isinstance(files, str) or not files:
        yield _best(path.stem, files, wanted)
        return
    parts = {f: PurePosixPath(f).parts for f in files}
    works = [p for f, p in parts.items() if f.lower().endswith(KINDS)] or list(parts.values())
    notebooks = sum(p[-1].lower().endswith(".ipynb") for p in works)
    if len({p[0] for p in works}) == 1 and (any(len(p) > 2 for p in works) or (notebooks > 1 and all(len(p) == 2 for p in works))):
        parts = {f: p[1:] if p[0] == works[0][0] else p for f, p in parts.items()}
    for top in sorted({p[0] for p in parts.values() if p}):
        mine = {f: files[f] for f, p in parts.items() if p[:1] == (top,)}
        if any(len(parts[f]) > 1 or f.endswith("/") for f in mine):
            yield _best(top, mine, wanted)
        elif top.lower().endswith(KINDS):
            yield _best(PurePosixPath(top).stem, mine, wanted)
        else:
            yield Submission(top, problem=_of_no_kind(top))


def _best(name: str, files: dict[str, bytes] | str, wanted: Sequence[str]) -> Submission:
    """Of several files the one with most of the wanted functions, and of those the last by name."""
    if isinstance(files, str):
        return Submission(name, problem=files)
    found = []
    for file, data in sorted(files.items()):
        if file.lower().endswith(".zip"):
            inner = _unzip(file, data)
            found.append(_best(name, inner if isinstance(inner, str) else {f: d for f, d in inner.items() if not f.lower().endswith(".zip")}, wanted))
        elif file.lower().endswith(KINDS):
            found.append(read_file(name, PurePosixPath(file).name, data))
    if not found:
        return Submission(name, problem="there is no .ipynb or .py in it")
    return max(reversed(found), key=lambda s: (s.problem is None, sum(_written(w, s.code) for w in wanted)))


def _written(function: str, code: str) -> bool:
    """Whether the code defines the function, and not as the stub that was handed out."""
    body = re.search(rf"^def {function}\(.*?(?=^\S|\Z)", code, re.MULTILINE | re.DOTALL)
    return body is not None and "raise NotImplementedError" not in body[0]


# -- 3. Of which assignment ----------------------------------------------------------------------------------------------------------------


def assignment_of(submissions: Sequence[Submission]) -> Assignment:
    """The assignment that most of them say they are of, by `load("a3")` or by the functions they define.

    Raises:
        ValueError: none of them says so.
    """
    votes: dict[str, int] = {}
    for submission in submissions:
        said = re.search(r"""\bload\(\s*["'](\w+)["']\s*\)""", submission.code)
        for name in names():
            if said and said.group(1) in (name, name.split("_")[0]):
                votes[name] = votes.get(name, 0) + 1000
            elif not said and any(f"def {task}(" in submission.code for task in load(name).tasks):
                votes[name] = votes.get(name, 0) + 1
    if not votes:
        raise ValueError(f"which assignment is it? Say so: --assignment {names()[0].split('_')[0]}")
    return load(max(votes, key=lambda n: votes[n]))

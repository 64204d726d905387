"""Files as systems and editors leave them are read, or get a row that says why not: none is lost in silence."""

import codecs
import json
import zipfile

import pytest

from tinygrad_norm.course import load
from tinygrad_norm.course.notebooks import notebook
from tinygrad_norm.course.submission import find, read_file

SOLUTION = notebook(load("a3"), "solution")
NO_KIND = " is no submission: expected .ipynb, .py, .zip or a folder"


@pytest.mark.parametrize(
    ("start", "encoding"),
    [(b"", "utf-8"), (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")],
)
@pytest.mark.parametrize(("file", "text"), [("a.ipynb", SOLUTION), ("a.py", "# %%\ndef f(γ):\n    return γ\n")])
def test_a_file_is_read_in_the_encoding_that_its_first_bytes_name(start, encoding, file, text):
    plain, made = read_file("a", file, text.encode()), read_file("a", file, start + text.encode(encoding))
    assert made.problem is None and made.cells == plain.cells and made.answers == plain.answers and "γ" in f"{made.code} {made.answers}"


def test_what_a_notebook_leaves_empty_costs_nothing():
    cells = [
        {"cell_type": "code", "metadata": None, "source": "x = 1"},
        {"cell_type": "code", "source": None},
        {"cell_type": "markdown", "metadata": None, "source": ["words"]},
        {"cell_type": "markdown", "metadata": {"tinygrad_norm": None, "nbgrader": None}, "source": None},
        {"cell_type": "markdown", "metadata": {"nbgrader": {"grade_id": "why"}}, "source": ["Be", "cause"]},
        {"cell_type": "code"},
    ]
    made = read_file("a", "a.ipynb", json.dumps({"cells": cells, "metadata": None}).encode())
    assert made.problem is None and made.cells == ["x = 1", "", ""] and made.answers == {"why": "Because"}


@pytest.mark.parametrize("data", [{}, [1], None, {"cells": None}, {"worksheets": []}])
def test_what_is_no_notebook_says_what_it_lacks(data):
    made = read_file("a", "a.ipynb", json.dumps(data).encode())
    assert made.problem == "a.ipynb is no notebook: there is no list of cells in it (nbformat 4)"


def test_a_file_of_another_kind_gets_a_row(tmp_path):
    place = tmp_path / "class"
    place.mkdir()
    (place / "ada.pdf").write_bytes(b"%PDF")
    (place / "ben.py").write_text("x = 1")
    (place / ".DS_Store").write_text("")
    found = {s.name: s.problem for s in find([place])}
    assert found == {"ada.pdf": "ada.pdf" + NO_KIND, "ben": None}


@pytest.mark.parametrize("above", ["", "a3/"])
def test_a_file_of_another_kind_in_a_zip_gets_a_row(tmp_path, above):
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as zipped:
        if above:
            zipped.writestr(above, "")
        zipped.writestr(f"{above}dan/", "")
        for name in ("ada.pdf", "ben.ipynb", "BO.PY", "cleo/words.docx", "eve/a3.ipynb", "eve/plot.png", "__MACOSX/ada.pdf"):
            zipped.writestr(above + name, SOLUTION)
    found = {s.name: s.problem for s in find([tmp_path / "all.zip"])}
    nothing = "there is no .ipynb or .py in it"
    assert found == {"ada.pdf": "ada.pdf" + NO_KIND, "ben": None, "BO": None, "cleo": nothing, "dan": nothing, "eve": None}


def test_a_zip_of_other_files_only_gets_a_row_for_each(tmp_path):
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as zipped:
        zipped.writestr("ada.pdf", "")
        zipped.writestr("ben.pdf", "")
    assert [(s.name, s.problem) for s in find([tmp_path / "all.zip"])] == [(n, n + NO_KIND) for n in ("ada.pdf", "ben.pdf")]

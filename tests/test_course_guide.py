"""The instructor's guide is followed to the letter: every command in it is run, in order, for a small class."""

import csv
import io
import os
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tinygrad_norm.cli import main
from tinygrad_norm.course import load
from tinygrad_norm.course.notebooks import notebook

pytestmark = pytest.mark.skipif(os.name != "posix", reason="workers need a POSIX system")
GUIDE = (Path(__file__).parent.parent / "notebooks" / "assignments" / "instructors_guide.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", GUIDE, re.M | re.S)


def test_every_command_of_the_guide(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    solution = notebook(load("a4"), "solution")
    wrong = solution.replace("channels(x, mean_dy) - xhat", "2 * channels(x, mean_dy) - xhat")
    assert wrong != solution
    (tmp_path / "submissions" / "ada").mkdir(parents=True)
    (tmp_path / "submissions" / "ada" / "a4_batch_norm.ipynb").write_text(solution)
    with zipfile.ZipFile(tmp_path / "submissions" / "ben.zip", "w") as zipped:
        zipped.writestr("a4_batch_norm.ipynb", wrong)
    (tmp_path / "submissions" / "cleo.ipynb").write_text("{")
    (source,) = (code for language, code in BLOCKS if language == "python")
    name = re.search(r"Save this as `(\w+\.py)`", GUIDE).group(1)
    (tmp_path / name).write_text(source)
    printed = {}
    for line in (line for language, code in BLOCKS if language == "bash" for line in code.splitlines()):
        if line.startswith("tinygrad-norm "):
            assert main(shlex.split(line)[1:]) in (0, None), line
            printed[line] = capsys.readouterr().out
        else:
            line = line.replace("python -c", f"{shlex.quote(sys.executable)} -c")
            subprocess.run(line, shell=True, check=True, timeout=60)
    for block in (code for language, code in BLOCKS if language == "text"):
        assert all((tmp_path / path).exists() for path in block.split())
    for path in re.findall(r"`((?:handout|nbgrader|grades)/[\w./]*)`", GUIDE):
        assert (tmp_path / path).exists(), path
    for path in re.findall(r"^\| (.*?) \|", GUIDE.split("What is in `grades/`")[1], re.M):
        assert all((tmp_path / "grades" / p).exists() for p in re.findall(r"`([^`]+)`", path)), path
    first = printed["tinygrad-norm grade submissions --out grades"]
    assert "mean path counted twice" in first and re.search(r"cleo .*!", first)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "grades" / "grades.csv").read_text())))
    assert [(r["submission"], float(r["score"]), float(r["out_of"])) for r in rows] == [("ada", 23, 23), ("ben", 15, 23), ("cleo", 0, 23)]  # 8 points for 5
    page = (tmp_path / "grades_term" / "students" / "ben.html").read_text()
    assert "mean path counted twice" not in page and "look again at" in page
    assert "3 of 3 points; 1 more for the written answers" in list(printed.values())[-1]


def test_options_the_guide_names_are_there(capsys):
    with pytest.raises(SystemExit):
        main(["grade", "--help"])
    known = capsys.readouterr().out
    assert all(option in known for option in re.findall(r"`(--[a-z]+)", GUIDE))

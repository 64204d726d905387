"""Every block of the README is run: commands as commands, Python as Python; what it says they print is what they print."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)


def blocks(language):
    return [code for name, code in BLOCKS if name == language]


def test_python_blocks_run():
    assert blocks("python")
    for code in blocks("python"):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr


def test_commands_of_the_package_run_and_print_what_is_shown(tmp_path):
    scripts = Path(sys.executable).parent
    printed = []
    for code in blocks("bash"):
        for line in code.splitlines():
            for command in line.split("&&"):
                if command.strip().startswith("tinygrad-norm"):
                    done = subprocess.run(f"{scripts}/{command.strip()}", shell=True, capture_output=True, text=True, cwd=tmp_path, timeout=300)
                    assert done.returncode == 0, done.stderr
                    printed.append(done.stdout)
    assert blocks("text")[0] == printed[0]


def test_the_two_commands_are_as_ci_runs_them():
    setup = [code for code in blocks("bash") if "python3 -m venv" in code]
    assert len(setup) == 2
    assert "pip install . && tinygrad-norm train" in setup[0]
    assert 'pip install -e ".[test]" && pytest' in setup[1]

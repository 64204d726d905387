"""The core's measures, each as a ratio within one run: contestants in processes of their own that take turns.

    python tests/benchmarks/core.py [--rounds 5]

Nothing here is a test: absolute times are noise on a shared machine, and even ratios want a quiet one.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

STEP = """
import sys, time
if sys.argv[1] == "torch":
    import torch, torch.nn as nn
    torch.set_num_threads(2)
else:
    import tinygrad_norm as torch, tinygrad_norm.nn as nn

class MLP(nn.Module):
    def __init__(self, i, h, o):
        super().__init__()
        self.fc1, self.norm1, self.fc2 = nn.Linear(i, h), nn.LayerNorm(h), nn.Linear(h, o)
    def forward(self, x):
        return self.fc2(torch.relu(self.norm1(self.fc1(x))))

torch.manual_seed(0)
x, y = torch.randn((100, 10)), torch.randint(0, 2, (100,))
model, criterion = MLP(10, 20, 2), nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
def step():
    loss = criterion(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
for _ in range(300):
    step()
times = []
for _ in range(3000):
    start = time.perf_counter()
    step()
    times.append(time.perf_counter() - start)
times.sort()
print(times[len(times) // 2] * 1e6, times[0] * 1e6)
"""


def run(*command: str, **environment: str) -> tuple[float, str]:
    """Seconds from start to end of a process, and what it printed."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True, env={**os.environ, **environment})
    return time.perf_counter() - start, done.stdout


def first_epoch(**environment: str) -> float:
    """Seconds from the start of the command to the first line it prints."""
    start = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "tinygrad_norm", "train"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, **environment}
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        taken = time.perf_counter() - start
        process.stdout.read()
    return taken


def main() -> None:
    """Prints one line a measure: the figure, what is asked for, and the times behind it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds

    steps: dict[str, list[tuple[float, float]]] = {"torch": [], "tinygrad_norm": []}
    for _ in range(rounds):
        for name, found in steps.items():
            median, least = map(float, run("-c", STEP, name)[1].split())
            found.append((median, least))
    ours, theirs = (statistics.median(m for m, _ in steps[name]) for name in ("tinygrad_norm", "torch"))
    least, least_theirs = (min(m for _, m in steps[name]) for name in ("tinygrad_norm", "torch"))
    times = f"median {ours:.0f} µs against {theirs:.0f}; least {least:.0f} against {least_theirs:.0f}"
    print(f"MLP step          torch/ours {theirs / ours:5.2f}  (asked: 5)    {times}")

    imports: dict[str, list[float]] = {"pass": [], "import numpy": [], "import tinygrad_norm": []}
    with tempfile.TemporaryDirectory() as folder:  # compiled to bytecode, as an installed package is, whatever this shell's settings
        for i in range(6 * rounds + 1):
            for code, found in imports.items():
                taken = run("-c", code, PYTHONDONTWRITEBYTECODE="", PYTHONPYCACHEPREFIX=folder)[0]
                found.extend([taken] if i else [])
    bare, numpy, package = (min(found) for found in imports.values())
    print(f"import            ours/numpy {package / numpy:5.2f}  (asked: 1.5)  {package * 1e3:.0f} ms against {numpy * 1e3:.0f}, Python alone {bare * 1e3:.0f}")

    cold = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            cold.append(first_epoch(NUMBA_CACHE_DIR=folder))
    print(f"cold first epoch  {statistics.median(cold):5.2f} s       (asked: 3)    least {min(cold):.2f}")
    first_epoch()
    warm = [first_epoch() for _ in range(rounds)]
    print(f"warm first epoch  {statistics.median(warm):5.2f} s       (asked: 1)    least {min(warm):.2f}")


if __name__ == "__main__":
    main()

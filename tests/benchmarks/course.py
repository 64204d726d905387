"""Measures of the grader: the start of a worker with its first check, and a hundred submissions of a3 on two processors.

    python tests/benchmarks/course.py [--jobs 2] [--count 100]
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

from tinygrad_norm.course import load
from tinygrad_norm.course.grade import Grading, grade_all
from tinygrad_norm.course.notebooks import notebook
from tinygrad_norm.course.report import write_all
from tinygrad_norm.course.sandbox import MODES, Worker, works
from tinygrad_norm.course.submission import find

# What the hundred wrote: a third all of it right, the others one mistake each, by replacing a part of the solution.
CHANGES = [
    ("", ""), ("", ""), ("", ""), ("d - d.mean(axis=-1, keepdims=True)", "d"), ("* -0.5 *", "* -1.0 *"), (" * weight\\n", "\\n"), ("rstd * (d - ", "(d - "),
    ("+ eps)", ")"), ("dmean = -rstd", "dmean = rstd"), ("d - d.mean(axis=-1, keepdims=True)", "d - 3 * d.mean(axis=-1, keepdims=True)"),
]  # fmt: skip


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--count", type=int, default=100)
    args = parser.parse_args()
    task = load("a3").tasks["layer_norm_backward"]
    case = task.draw(0, hidden=False)[0]
    for mode in MODES:
        if not works(mode)[0]:
            print(f"{mode}: does not work here: {works(mode)[1]}")
            continue
        times = []
        for _ in range(20):
            start = time.perf_counter()
            with Worker(mode) as worker:
                worker.load(load("a3").solution_cells())
                assert "result" in worker.call(task.name, task.arguments(case.values))
            times.append(time.perf_counter() - start)
        print(f"{mode}: start, load and first check: median {statistics.median(times):.3f} s, longest {max(times):.3f} s")
    solution = notebook(load("a3"), "solution")
    with tempfile.TemporaryDirectory() as folder:
        for i in range(args.count):
            old, new = CHANGES[i % len(CHANGES)]
            text = solution.replace(old, new) if old else solution
            assert not old or text != solution, old
            Path(folder, f"student{i:03d}.ipynb").write_text(text)
        mode = next(m for m in MODES if works(m)[0])
        start, used = time.perf_counter(), os.times()
        results = grade_all(Grading(load("a3"), mode), list(find([folder])), Path(folder, "out"), args.jobs)
        write_all(results, Path(folder, "out"))
        seconds, after = time.perf_counter() - start, os.times()
    spent = (after.user - used.user) + (after.system - used.system)
    right = sum(r["score"] == r["out_of"] for r in results)
    print(f"{len(results)} submissions, {args.jobs} at once, {mode}: {seconds:.1f} s ({right} right; {spent:.1f} s of processor time beside the workers')")


if __name__ == "__main__":
    main()

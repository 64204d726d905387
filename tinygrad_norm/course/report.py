"""What comes out of grading: a table, a CSV, a page a student, Gradescope's results.json, and the class report."""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from ..autograd.target import plural
from .arguments import SELF_CHECK
from .grade import file_names, write_atomically

__all__ = ["class_report", "csv_text", "gradescope_results", "student_html", "table", "write_all"]

NO_ANSWER = ("not there", "not begun", "cannot be read", "took too long", "broke the worker", "not graded")  # no mistakes of a derivation
_STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem;color:#222}table{border-collapse:collapse}
td,th{border-bottom:1px solid #ddd;padding:.3rem .7rem;text-align:left;vertical-align:top}.ok{color:#0072B2}.no{color:#D55E00}
pre{background:#f6f6f6;padding:.6rem;white-space:pre-wrap;overflow-wrap:anywhere}h2{margin:2rem 0 .3rem}table{width:100%}
.bar{background:#56B4E9;height:.8rem;display:inline-block;vertical-align:middle}.n{width:1.5rem;text-align:right}.b{width:100px}.m{width:50%}.who{color:#666}"""


def _page(title: str, body: str) -> str:
    return f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{_h(title)}</title><style>{_STYLE}</style></head><body>{body}</body></html>\n'


def _h(text: Any) -> str:
    return html.escape(str(text))


def table(results: Sequence[dict[str, Any]]) -> str:
    """One line a submission: points task by task and in all."""
    if not results:
        return "no submissions"
    names = [t["name"] for t in results[0]["tasks"]]
    rows = [["submission", *names, "points", "of"]]
    for r in results:
        points = [f"{round(p, 2):g}" for p in (*(t["points"] for t in r["tasks"]), r["score"])]
        rows.append([r["submission"], *points, f"{r['out_of']:g}{'  !' if r['needs_attention'] else ''}"])
    width = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return "\n".join("  ".join(c.ljust(w) if k == 0 else c.rjust(w) for k, (c, w) in enumerate(zip(row, width))).rstrip() for row in rows)


def csv_text(results: Sequence[dict[str, Any]]) -> str:
    """The same for a spreadsheet, with the written answers' points left to be filled in."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [t["name"] for t in results[0]["tasks"]] if results else []
    questions = [q["name"] for q in results[0]["questions"]] if results else []
    writer.writerow(["submission", *names, "score", "out_of", *(f"{q} (by hand)" for q in questions), "mode", "needs_attention", "misconceptions"])
    for r in results:
        found = [f"{t['name']}: {m}" for t in r["tasks"] for m in t["misconceptions"]]
        points = [*(t["points"] for t in r["tasks"]), r["score"], r["out_of"], *("" for _ in questions)]
        writer.writerow([_cell(c) for c in (r["submission"], *points, r["mode"], r["needs_attention"] or "", "; ".join(found))])
    return text.getvalue()


def _cell(value: Any) -> Any:
    """A text that a spreadsheet would take for a formula, as a text."""
    return "'" + value if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def student_html(r: dict[str, Any]) -> str:
    """One student's page."""
    parts = [f"<h1>{_h(r['title'])}</h1><p><b>{_h(r['submission'])}</b>: {round(r['score'], 2):g} of {r['out_of']:g} points"]
    if r["by_hand"]:
        parts.append(f", and {r['by_hand']:g} for the written answers, graded by hand")
    parts.append("</p>")
    if not r["official"]:
        parts.append(f"<p class=no>{SELF_CHECK}</p>")
    if r["needs_attention"]:
        parts.append(f"<p class=no>{_h(r['needs_attention'])}</p>")
    if r["notes"]:
        parts.append("<p>While the code was loaded:</p><pre>" + _h("\n".join(r["notes"])) + "</pre>")
    parts.append("<table><tr><th>task</th><th>points</th><th></th></tr>")
    for t in r["tasks"]:
        lines = "<br>".join(_h(line) for line in [*(["right"] if t["right"] else []), *t["lines"]])
        printed = f"<pre>{_h(t['printed'])}</pre>" if t.get("printed") else ""
        points = f"<td class={'ok' if t['right'] else 'no'}>{round(t['points'], 2):g} / {t['out_of']:g}</td>"
        parts.append(f"<tr><td><code>{_h(t['name'])}</code></td>{points}<td>{lines}{printed}</td></tr>")
    parts.append("</table>")
    for q in r["questions"]:
        parts.append(f"<h3>{_h(q['name'])} ({q['out_of']:g} point{'' if q['out_of'] == 1 else 's'}, by hand)</h3><pre>{_h(q['answer'] or '(no answer)')}</pre>")
    return _page(f"{r['submission']}: {r['title']}", "".join(parts))


def gradescope_results(r: dict[str, Any]) -> dict[str, Any]:
    """Gradescope's results.json."""
    tests = [
        {
            "name": t["name"], "score": t["points"], "max_score": t["out_of"], "status": "passed" if t["right"] else "failed",
            "output": "\n".join(t["lines"]) or ("right" if t["right"] else "not right"), "output_format": "text", "visibility": "visible",
        }
        for t in r["tasks"]
    ]  # fmt: skip
    said = [r["needs_attention"] or "", *r["notes"], "" if r["official"] else f"run without a sandbox: {SELF_CHECK}"]
    return {
        "score": r["score"], "execution_time": r["seconds"], "output": "\n".join(s for s in said if s), "output_format": "text", "visibility": "visible",
        "stdout_visibility": "hidden", "tests": tests,
        "extra_data": {
            "assignment": r["assignment"], "mode": r["mode"], "misconceptions": {t["name"]: t["misconceptions"] for t in r["tasks"] if t["misconceptions"]},
        },
    }  # fmt: skip


def class_report(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Which misconception hit how many, per task."""
    tasks: dict[str, Any] = {}
    for r in results:
        for t in r["tasks"]:
            task = tasks.setdefault(t["name"], {"right": 0, "mean": 0.0, "out_of": t["out_of"], "misconceptions": {}})
            task["right"] += bool(t["right"])
            task["mean"] += t["points"] / len(results)
            for m in t["misconceptions"]:
                task["misconceptions"].setdefault(m, []).append(r["submission"])
    for task in tasks.values():
        task["mean"] = round(task["mean"], 3)
        task["misconceptions"] = dict(sorted(task["misconceptions"].items(), key=lambda kv: (-len(kv[1]), kv[0])))
    scores = [r["score"] for r in results]
    return {
        "submissions": len(results), "mean": round(fmean(scores), 3) if scores else None, "median": median(scores) if scores else None,
        "out_of": results[0]["out_of"] if results else 0, "tasks": tasks,
        "needs_attention": {r["submission"]: r["needs_attention"] for r in results if r["needs_attention"]},
    }  # fmt: skip


def class_text(report: dict[str, Any]) -> str:
    """The class report for a terminal."""
    lines = [f"{plural(report['submissions'], 'submission')}, mean {report['mean']}, median {report['median']} of {report['out_of']:g}"]
    for name, t in report["tasks"].items():
        lines.append(f"{name}: {t['right']} right, mean {t['mean']:g} of {t['out_of']:g}")
        lines += [f"  {len(who):4d}  {m}" for m, who in t["misconceptions"].items()]
    lines += [f"! {name}: {why}" for name, why in report["needs_attention"].items()]
    return "\n".join(lines)


def _bar(count: int, n: int) -> str:
    return f"<span class=bar style='width:{100 * count / n:.0f}px'></span>"


def class_html(report: dict[str, Any], title: str) -> str:
    """The class report as a page."""
    n = report["submissions"]
    parts = [f"<h1>{_h(title)}: the class</h1>"]
    if n:
        parts.append(f"<p>{plural(n, 'submission')}, mean {report['mean']:.1f}, median {report['median']:g} of {report['out_of']:g} points</p>")
    parts.append("<table><tr><th>task</th><th>right</th><th class=b></th><th>mean</th><th>most frequent mistake</th></tr>")
    for name, t in report["tasks"].items():
        first, who = next(((m, w) for m, w in t["misconceptions"].items() if m not in NO_ANSWER), ("", []))
        often = f"{_h(first)} ({len(who)})" if who else ""
        mean = f"{t['mean']:.2f}&nbsp;of&nbsp;{t['out_of']:g}"
        row = (f"<a href='#{_h(name)}'><code>{_h(name)}</code></a>", f"{t['right']}", _bar(t["right"], n), mean, often)
        parts.append("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>")
    parts.append("</table>")
    for name, t in report["tasks"].items():
        parts.append(f"<h2 id='{_h(name)}'><code>{_h(name)}</code></h2><p>{t['right']} of {n} right</p><table>")
        for m, who in sorted(t["misconceptions"].items(), key=lambda found: found[0] in NO_ANSWER):
            cells = f"<td class=n>{len(who)}</td><td class=b>{_bar(len(who), n)}</td><td class=m>{_h(m)}</td><td class=who>{_h(', '.join(who))}</td>"
            parts.append(f"<tr>{cells}</tr>")
        parts.append("</table>")
    if report["needs_attention"]:
        parts.append("<h2>To be looked at</h2><ul>" + "".join(f"<li>{_h(k)}: {_h(v)}</li>" for k, v in report["needs_attention"].items()) + "</ul>")
    return _page(f"{title}: the class", "".join(parts))


def write_all(results: Sequence[dict[str, Any]], out: Path) -> None:
    """All of it into a folder: grades.csv, class.json, class.html, class.txt, and for each student .json (there already), .html and .gradescope.json."""
    students = out / "students"
    students.mkdir(parents=True, exist_ok=True)
    for r, name in zip(results, file_names([r["submission"] for r in results])):
        write_atomically(students / f"{name}.html", student_html(r))
        write_atomically(students / f"{name}.gradescope.json", json.dumps(gradescope_results(r), indent=1, ensure_ascii=False))
    report = class_report(results)
    title = results[0]["title"] if results else "no submissions"
    for name, text in (
        ("grades.csv", csv_text(results)), ("class.json", json.dumps(report, indent=1, ensure_ascii=False)), ("class.html", class_html(report, title)),
        ("class.txt", class_text(report) + "\n"),
    ):  # fmt: skip
        write_atomically(out / name, text)

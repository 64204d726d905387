"""The step-through at work in a real browser, Debian's Chromium: driven by a script that clicks and writes what it sees."""

import base64
import json
import re
import shutil
import subprocess

import pytest

import tinygrad_norm as tg
from tinygrad_norm.train import MLP

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install --no-install-recommends chromium")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--window-size=1200,900",
]  # fmt: skip

HELPERS = """
function shown(e) { return e.getClientRects().length > 0; }
function all(root, what) { return Array.prototype.slice.call(root.querySelectorAll(what)); }
function state(walk) {
  return {
    title: all(walk, 'section').filter(shown).map(function (s) { return s.querySelector('h4').textContent; }),
    said: walk.querySelector('output').textContent, range: +walk.querySelector('input').value,
    gradients: all(walk, '.gradient').filter(shown).map(function (g) { return g.textContent; }),
    on: all(walk, '.box.on').map(function (b) { return b.querySelector('text').textContent; }), arrows: all(walk, '.arrow.on').length,
    disabled: all(walk, 'button:disabled').map(function (b) { return b.textContent; }), bar: shown(walk.querySelector('.bar')),
  };
}
function press(walk, name) { all(walk, 'button').filter(function (b) { return b.textContent === name; })[0].click(); return state(walk); }
function slide(walk, k) { var r = walk.querySelector('input'); r.value = k; r.dispatchEvent(new Event('input', {bubbles: true})); return state(walk); }
"""


def browse(tmp_path, body, script):
    """What `script`, a JavaScript function body, returns after the page was loaded."""
    page = tmp_path / "page.html"
    page.write_text(
        f"<!DOCTYPE html><meta charset='utf-8'><body>{body}<script>{HELPERS}\n"
        "window.failed = []; window.onerror = function (m) { window.failed.push(m); };\n"
        f"var result = (function () {{ {script} }})();\n"
        "document.body.setAttribute('data-result', btoa(unescape(encodeURIComponent(JSON.stringify([result, window.failed])))));</script></body>",
        encoding="utf-8",
    )
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r'data-result="([^"]+)"', done.stdout)
    assert found, f"the page's script did not run to its end:\n{done.stderr[-2000:]}"
    result, failed = json.loads(base64.b64decode(found.group(1)))
    assert failed == []
    return result


def small_walk():
    x, w = tg.tensor(2.0, requires_grad=True), tg.tensor(-3.0, requires_grad=True)
    return tg.graph.explain(x * w + x)


def test_step_by_step_forwards_and_backwards(tmp_path):
    first, *clicks = browse(
        tmp_path,
        small_walk()._repr_html_(),
        """var w = document.querySelector('.tg-walk');
        return [state(w), press(w, 'Forward'), press(w, 'Forward'), press(w, 'Last'), press(w, 'Back'), press(w, 'First'), slide(w, 3)];""",
    )
    assert first["title"] == ["Step 1 of 4: the gradient of AddBackward0 itself"]
    assert first["bar"] and first["said"] == "step 1 of 4" and first["disabled"] == ["First", "Back"]
    assert first["on"] == ["AddBackward0"]
    assert sorted(first["gradients"]) == ["grad 1.0", "grad: none yet", "grad: none yet", "grad: none yet"]
    add, mul, last, back, again, slid = clicks
    assert add["title"] == ["Step 2 of 4: AddBackward0"] and add["on"] == ["AddBackward0"] and add["arrows"] == 2
    assert sorted(add["gradients"]) == ["grad 1.0", "grad 1.0", "grad 1.0", "grad: none yet"]
    assert mul["title"] == ["Step 3 of 4: MulBackward0"] and mul["disabled"] == []
    assert sorted(mul["gradients"]) == sorted(["grad 1.0", "grad 1.0", "grad −2.0", "grad 2.0"])
    assert last["on"] == ["x", "w"] and last["disabled"] == ["Forward", "Last"] and last["range"] == 4
    assert back == mul == slid and again == first


def test_two_in_one_page_do_not_meet(tmp_path):
    one, other = small_walk(), tg.graph.explain(tg.tensor(3.0, requires_grad=True) * 2)
    a, b = browse(
        tmp_path,
        one._repr_html_() + other._repr_html_(),
        "var w = all(document, '.tg-walk'); press(w[0], 'Forward'); press(w[1], 'Last'); return [state(w[0]), state(w[1])];",
    )
    assert (a["range"], b["range"]) == (2, 3)
    assert a["title"] == ["Step 2 of 4: AddBackward0"] and b["said"] == "step 3 of 3"


def test_put_in_as_jupyterlab_does(tmp_path):
    """innerHTML runs no script; JupyterLab then replaces each script element by a copy, in outputs of trusted notebooks, which does run."""
    html = base64.b64encode(small_walk()._repr_html_().encode()).decode()
    result = browse(
        tmp_path,
        "<div id='cell'></div><div id='again'></div>",
        f"""var html = decodeURIComponent(escape(atob('{html}')));
        return ['cell', 'again'].map(function (id) {{
          var host = document.getElementById(id);
          host.innerHTML = html;
          all(host, 'script').forEach(function (old) {{
            var script = document.createElement('script');
            script.textContent = old.textContent;
            old.parentNode.replaceChild(script, old);
          }});
          return press(host.querySelector('.tg-walk'), 'Forward').said;
        }});""",
    )
    assert result == ["step 2 of 4"] * 2


def test_without_scripts_all_can_be_read(tmp_path):
    html = re.sub(r"<script>.*?</script>", "", small_walk()._repr_html_(), flags=re.S)
    found = browse(tmp_path, html, "return state(document.querySelector('.tg-walk'));")
    assert len(found["title"]) == 4 and not found["bar"]
    assert sorted(found["gradients"]) == sorted(["grad 1.0", "grad 1.0", "grad −2.0", "grad 2.0"])


def test_it_can_be_worked_by_keyboard_and_ear(tmp_path):
    result = browse(
        tmp_path,
        small_walk()._repr_html_(),
        """var w = document.querySelector('.tg-walk'), range = w.querySelector('input');
        press(w, 'Forward');
        return all(w, 'button, input').filter(function (e) { e.focus(); return document.activeElement === e; }).map(function (e) {
          return e.tagName === 'INPUT' ? e.closest('label').textContent.trim() : e.textContent; })
          .concat([range.getAttribute('aria-valuetext'), w.querySelector('output').getAttribute('aria-live'), w.querySelector('svg').getAttribute('role')]);""",
    )
    assert result == ["First", "Back", "Forward", "Last", "Step", "step 2 of 4: AddBackward0", "polite", "img"]


def graphs():
    model = MLP(10, 16, 2)
    yield "mlp", tg.nn.functional.cross_entropy(model(tg.randn(4, 10)), tg.randint(0, 2, (4,))), {"model": model}
    x, gamma, beta = tg.randn(4, 3, requires_grad=True), tg.ones(3, requires_grad=True), tg.zeros(3, requires_grad=True)
    centred = x - x.mean(-1, keepdim=True)
    y = centred * ((centred * centred).mean(-1, keepdim=True) + 1e-5).rsqrt() * gamma + beta
    yield "layer norm by hand", (y * tg.randn(4, 3)).sum(), {"x": x, "γ": gamma, "β of a very long name that must be cut somewhere": beta}
    weights = [tg.randn(4, 4, requires_grad=True) for _ in range(3)]
    h = x0 = tg.randn(3, 4, requires_grad=True)
    for w in weights:
        h = h + (h @ w).relu()
    yield "residual", (h * x0).sum() + sum((w * w).sum() for w in weights) * 1e-5, {}


def test_no_text_overlaps_anything_as_the_browser_draws_it(tmp_path):
    """Measured with the browser's own fonts: each line inside its box, each label clear of boxes and of other labels."""
    bodies = "".join(f"<div class='one'>{tg.graph.explain(loss, names).picture().svg}</div>" for _, loss, names in graphs())
    problems = browse(
        tmp_path,
        bodies,
        """function apart(a, b) { return a.right <= b.left + .5 || b.right <= a.left + .5 || a.bottom <= b.top + .5 || b.bottom <= a.top + .5; }
        var wrong = [];
        all(document, '.one').forEach(function (one) {
          var boxes = all(one, '.box'), rects = boxes.map(function (b) { return b.querySelector('rect').getBoundingClientRect(); });
          var labels = all(one, '.arrow text').map(function (t) { return [t.textContent, t.getBoundingClientRect()]; });
          boxes.forEach(function (box, i) {
            var lines = all(box, 'text').filter(shown).map(function (t) { return [t.textContent, t.getBoundingClientRect()]; });
            lines.forEach(function (t) {
              if (t[1].left < rects[i].left || t[1].right > rects[i].right || t[1].bottom > rects[i].bottom + 1 || t[1].top < rects[i].top - 1)
                wrong.push('sticks out: ' + t[0]);
            });
            lines.forEach(function (t, n) { lines.slice(n + 1).forEach(function (u) {
              if (t[1].right > u[1].left + .5 && u[1].right > t[1].left + .5 && Math.min(t[1].bottom, u[1].bottom) - Math.max(t[1].top, u[1].top) > 3)
                wrong.push(t[0] + ' over ' + u[0]); }); });
          });
          rects.forEach(function (a, i) { rects.slice(i + 1).forEach(function (b) { if (!apart(a, b)) wrong.push('boxes'); }); });
          labels.forEach(function (t, n) {
            rects.forEach(function (r) { if (!apart(t[1], r)) wrong.push('label on a box: ' + t[0]); });
            labels.slice(n + 1).forEach(function (u) { if (!apart(t[1], u[1])) wrong.push('labels: ' + t[0] + ' ' + u[0]); });
          });
        });
        return [all(document, '.box').length, wrong];""",
    )
    assert problems[0] > 40
    assert problems[1] == []


def test_a_long_chain_scrolls_to_the_step(tmp_path):
    v = h = tg.tensor([1.0, 2.0], requires_grad=True)
    for _ in range(100):
        h = (h * 0.99).tanh()
    seen = browse(
        tmp_path,
        tg.graph.explain(h.sum(), {"v": v})._repr_html_(),
        """var w = document.querySelector('.tg-walk'), p = w.querySelector('.picture');
        return [1, 2, 90, 203].map(function (k) { slide(w, k); var b = w.querySelector('.box.on').getBoundingClientRect(), r = p.getBoundingClientRect();
          return b.top >= r.top - 1 && b.bottom <= r.bottom + 1; }).concat([window.scrollY === 0]);""",
    )
    assert seen == [True] * 5

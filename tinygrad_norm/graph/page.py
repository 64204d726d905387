"""A walk as HTML that stands alone: the picture, every step in words, and a few lines of script that show one step at a time.

No kernel, network or id is needed: a saved notebook may hold any number of these. Where scripts are off, the picture shows the end of the walk
and all steps stand below one another.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..notebook import escape

__all__ = ["page"]

STYLE = """
.tg-walk{font:14px/1.45 system-ui,sans-serif;color:#1a1a1a;background:#fff;border:1px solid #8a8a8a;border-radius:6px;padding:10px;max-width:1400px}
.tg-walk .bar{display:flex;flex-wrap:wrap;gap:8px;align-items:center;margin-bottom:8px}
.tg-walk .bar[hidden]{display:none}
.tg-walk .bar button{font:inherit;color:#1a1a1a;background:#f3f3f3;border:1px solid #595959;border-radius:4px;padding:3px 10px;cursor:pointer}
.tg-walk .bar button:disabled{color:#767676;border-color:#b0b0b0;cursor:default}
.tg-walk .bar button:focus-visible,.tg-walk .bar input:focus-visible,.tg-walk .picture:focus-visible{outline:3px solid #0072b2;outline-offset:1px}
.tg-walk .bar label{display:flex;gap:6px;align-items:center;flex:1 1 180px}
.tg-walk .bar input{flex:1;min-width:100px}
.tg-walk .body{display:flex;flex-wrap:wrap;gap:14px;align-items:flex-start}
.tg-walk .picture{flex:1 1 420px;min-width:0;overflow:auto;max-height:640px}
.tg-walk .picture svg{max-width:100%;min-width:calc(var(--width)*.75);height:auto;display:block}
.tg-walk .steps{flex:1 1 380px;min-width:0;max-height:640px;overflow:auto}
.tg-walk section{margin:0 0 14px}
.tg-walk section[hidden]{display:none}
.tg-walk .steps h4{margin:0 0 6px;font-size:15px;font-weight:bold}
.tg-walk .steps dl{margin:0;display:grid;grid-template-columns:minmax(70px,max-content) 1fr;gap:4px 12px}
.tg-walk .steps dt{color:#595959;margin:0;max-width:110px;width:auto;float:none;font-weight:normal}
.tg-walk .steps dd{margin:0;font-family:'DejaVu Sans Mono',Menlo,Consolas,monospace;font-size:13px;white-space:pre-wrap;overflow-wrap:anywhere}
.tg-walk .steps dd.in,.tg-walk .steps dd.sum{color:#a63c00}
.tg-walk .on>rect{stroke:#d55e00;stroke-width:4}
.tg-walk .arrow.on>path{stroke:#d55e00;stroke-width:3}
.tg-walk .arrow.on>path.head{fill:#d55e00;stroke-width:1}
.tg-walk .arrow.on>text{fill:#a63c00;font-weight:bold}
"""

SCRIPT = """
document.querySelectorAll('.tg-walk:not([data-ready])').forEach(function (walk) {
  walk.setAttribute('data-ready', '');
  function all(what) { return Array.prototype.slice.call(walk.querySelectorAll(what)); }
  var steps = all('section'), range = walk.querySelector('input'), said = walk.querySelector('output'), picture = walk.querySelector('.picture');
  var boxes = all('.box').map(function (box) { return Array.prototype.slice.call(box.querySelectorAll('.gradient')); });
  var marked = all('[data-step]'), buttons = all('button'), now = 1, last = steps.length;
  function show(k) {
    now = Math.max(1, Math.min(last, k));
    range.value = now;
    steps.forEach(function (step, i) { step.hidden = i + 1 !== now; });
    said.textContent = 'step ' + now + ' of ' + last;
    range.setAttribute('aria-valuetext', 'step ' + now + ' of ' + last + ': ' + steps[now - 1].getAttribute('data-title'));
    buttons.forEach(function (b) { b.disabled = b.getAttribute('data-go') === '-' || b.getAttribute('data-go') === 'first' ? now === 1 : now === last; });
    boxes.forEach(function (shown) {
      var latest = null;
      shown.forEach(function (g) { if (+g.getAttribute('data-from') <= now) latest = g; });
      shown.forEach(function (g) { g.style.display = g === latest ? '' : 'none'; });
    });
    var active = null;
    marked.forEach(function (m) {
      var on = m.getAttribute('data-step').split(' ').indexOf('' + now) >= 0;
      m.classList.toggle('on', on);
      if (on && m.classList.contains('box') && !active) active = m;
    });
    if (active) {
      var a = active.getBoundingClientRect(), p = picture.getBoundingClientRect();
      if (a.top < p.top || a.bottom > p.bottom) picture.scrollTop += (a.top + a.bottom - p.top - p.bottom) / 2;
      if (a.left < p.left || a.right > p.right) picture.scrollLeft += (a.left + a.right - p.left - p.right) / 2;
    }
  }
  buttons.forEach(function (b) {
    b.addEventListener('click', function () { show({'first': 1, '-': now - 1, '+': now + 1, 'last': last}[b.getAttribute('data-go')]); });
  });
  range.addEventListener('input', function () { show(+range.value); });
  walk.querySelector('.bar').hidden = false;
  show(1);
});
"""

CLASSES = {"comes in": "in", "adds up": "sum"}


def page(svg: str, steps: Sequence[tuple[str, Sequence[tuple[str, Sequence[str]]]]], hint: str = "") -> str:
    """The picture and the steps as one element.

    Args:
        svg: with `data-step` and `data-from` marks, as draw.render makes it.
        steps: for each its title, and its headings with their lines.
        hint: stands below.
    """
    count = len(steps)
    sections = "".join(_section(i + 1, count, title, parts) for i, (title, parts) in enumerate(steps))
    go = (("first", "First"), ("-", "Back"), ("+", "Forward"), ("last", "Last"))
    buttons = "".join(f'<button type="button" data-go="{where}">{text}</button>' for where, text in go)
    width = svg.split('width="', 1)[1].split('"', 1)[0]  # the svg's own: in a narrow column it shrinks, as long as it can be read
    below = f"<p>{escape(hint)}</p>" if hint else ""
    return (
        f'<div class="tg-walk" role="group" aria-label="Backward, step by step"><style>{STYLE}</style>'
        f'<div class="bar" hidden>{buttons}<label>Step <input type="range" min="1" max="{count}" step="1" value="1"></label>'
        f'<output aria-live="polite"></output></div><div class="body"><div class="picture" tabindex="0" role="region" aria-label="The graph" '
        f'style="--width:{width}px">{svg}</div>'
        f'<div class="steps">{sections}</div></div>{below}<script>{SCRIPT}</script></div>'
    )


def _section(number: int, count: int, title: str, parts: Sequence[tuple[str, Sequence[str]]]) -> str:
    rows = ""
    for heading, lines in parts:
        kind = f' class="{CLASSES[heading]}"' if heading in CLASSES else ""
        rows += f"<dt>{escape(heading)}</dt><dd{kind}>{escape(chr(10).join(lines))}</dd>"
    return f'<section data-title="{escape(title)}"><h4>Step {number} of {count}: {escape(title)}</h4><dl>{rows}</dl></section>'

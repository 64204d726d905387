"""Pictures, pages and texts of a graph; what tensors, modules and reports look like in a notebook."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest

import tinygrad_norm as tg

# -- Pictures and pages -------------------------------------------------------------------------------------------------------------------

EVIL = '<script>alert("x")</script>&\'"]]>'


def test_svg_is_well_formed_and_stands_alone(tmp_path):
    x = tg.ones(2, 2, requires_grad=True)
    picture = tg.graph.draw(x * 2 + x, {EVIL: x})
    root = ET.fromstring(picture.svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and root.get("role") == "img" and "2 ops" in root.get("aria-label")
    assert any(EVIL[:10] in (t.text or "") for t in root.iter("{http://www.w3.org/2000/svg}text"))
    assert not list(root.iter("{http://www.w3.org/2000/svg}script"))
    assert picture._repr_svg_() == picture.svg
    assert picture.save(tmp_path / "graph.svg").read_text(encoding="utf-8") == picture.svg
    with pytest.raises(ValueError, match=r"save it as graph\.svg"):
        picture.save(tmp_path / "graph.png")
    assert "2 ops and 1 input:" in repr(picture)


@pytest.mark.parametrize("name", ["a\x00b", "a\x1b[31mb", "a\x0bb", "a\ud800b", "a\ufffeb", "a\tb", "a\x7fb", "a😀b"])
def test_names_may_hold_what_xml_does_not_allow(name, tmp_path):
    x = tg.ones(2, 2, requires_grad=True)
    ET.parse(tg.graph.draw(x * 2, {name: x}).save(tmp_path / "graph.svg"))
    walk = tg.graph.explain((x * 2).sum(), {name: x})
    ET.parse(walk.save(tmp_path / "walk.svg"))
    ET.fromstring(re.search(r"<svg.*</svg>", walk.save(tmp_path / "walk.html").read_text(encoding="utf-8"), re.S).group())
    model = tg.nn.Module()
    model.add_module(name, tg.nn.Linear(2, 2))
    well_formed(model._repr_html_())


def test_page_stands_alone(tmp_path):
    x = tg.ones(2, 2, requires_grad=True)
    walk = tg.graph.explain((x * 2 + x).sum(), {EVIL: x})
    html = walk._repr_html_()
    assert "alert(" in html and EVIL not in html and "<script>alert" not in html
    assert not re.search(r"""\b(src|href|id)\s*=|@import|url\(|https?://(?!www\.w3\.org/2000/svg)""", html)
    ET.fromstring(re.search(r"<svg.*</svg>", html, re.S).group())
    assert walk.save(tmp_path / "walk.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert walk.save(tmp_path / "walk.txt").read_text(encoding="utf-8") == walk.text() + "\n" == str(walk) + "\n"
    ET.parse(walk.save(tmp_path / "walk.svg"))
    with pytest.raises(ValueError, match=r"\.html, \.svg or \.txt"):
        walk.save(tmp_path / "walk.pdf")
    assert f"{len(walk.steps)} steps" in repr(walk)


def test_picture_has_the_numbers_of_all_steps():
    x = tg.tensor(2.0, requires_grad=True)
    svg = tg.graph.explain(x * x).picture().svg
    assert "grad 4.0" in svg and "grad 1.0" in svg and "none yet" not in svg


def test_text_of_a_walk():
    x, w = tg.tensor(2.0, requires_grad=True), tg.tensor(-3.0, requires_grad=True)
    loss = x * w + x
    assert tg.graph.explain(loss).text() == """forward
    x  scalar float32 = 2.0
    w  scalar float32 = −3.0
    MulBackward0 [step 3](x, w)  scalar float32 = −6.0
    AddBackward0 [step 2](MulBackward0 [step 3], x)  (loss)  scalar float32 = −4.0
backward
step 1 of 4: the gradient of loss itself
    adds up               g of loss, step 2 = 1.0
    note                  the derivative of loss by itself is 1: the walk starts with it and goes back, the youngest op first
step 2 of 4: AddBackward0
    forward               y = a + b
    comes in              g = 1.0
    formula               da = g,  db = g
    gives                 da = 1.0
                          db = 1.0
    adds up               g of MulBackward0, step 3: da, the first to arrive
                          x.grad: db, the first to arrive
step 3 of 4: MulBackward0
    forward               y = a·b
    comes in              g = 1.0
    formula               da = g·b,  db = g·a
    kept from the forward a = 2.0
                          b = −3.0
    gives                 da = −3.0
                          db = 2.0
    adds up               x.grad: 1.0 + −3.0 = −2.0
                          w.grad: db, the first to arrive
step 4 of 4: the gradients reach .grad of the leaves
    adds up               x.grad = −2.0
                          w.grad = 2.0
    note                  explain itself has written nothing: backward() does this"""


def test_broadcasting_is_explained():
    x, b = tg.ones(4, 3, requires_grad=True), tg.ones(3, requires_grad=True)
    step = tg.graph.explain((x + b).sum()).steps[2]
    assert step.notes == ["b of shape (3,) was broadcast to (4, 3): db is summed over axis 0"]


def test_the_package_does_not_import_it():
    code = "import sys, tinygrad_norm as tg; assert not any('norm.graph' in m for m in sys.modules); tg.graph.draw; assert 'tinygrad_norm.graph' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# -- Notebook forms -----------------------------------------------------------------------------------------------------------------------


def well_formed(html):
    return ET.fromstring(html.replace("<br>", "<br/>"))


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (lambda: tg.tensor([[1.0, -2.0], [0.5, 4.0]]), ["(2, 2), float32, no gradient", "-2.0000", "mean 0.875"]),
        (lambda: tg.tensor([1, 2, 3]), ["(3,), int64", "min 1, max 3"]),
        (lambda: tg.tensor([True, False]), ["bool"]),
        (lambda: tg.tensor(2.5, requires_grad=True), ["scalar", "leaf, collects a gradient", "tensor(2.5000, requires_grad=True)"]),
        (lambda: tg.ones(2, requires_grad=True) * 2, ["made by MulBackward0"]),
        (lambda: tg.tensor([1.0, float("nan"), float("inf")]), ["1 NaN, 1 infinite", "max 1"]),
        (lambda: tg.tensor([float("nan")] * 2), ["no finite value", "2 NaN"]),
        (lambda: tg.zeros(0, 3), ["(0, 3)", "tensor([], size=(0, 3))"]),
        (lambda: tg.zeros(3, 4, 5), ["(3, 4, 5)", "tensor([[["]),
        (lambda: tg.randn(100, 100), ["...", "std"]),
        (lambda: tg.nn.Parameter(tg.ones(2)), ["Parameter"]),
    ],
)
def test_tensors_in_a_notebook(tensor, words):
    html = tensor()._repr_html_()
    text = "".join(well_formed(html).itertext())
    assert all(word in text for word in words), text


def test_a_tensors_grad_is_shown():
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    (x * x).sum().backward()
    assert ".grad: min 2, mean 3, max 4" in x._repr_html_()


def test_modules_in_a_notebook():
    class Named(tg.nn.Module):
        def extra_repr(self):
            return "<b>"

    shared = tg.nn.Linear(3, 3)
    model = tg.nn.Sequential(shared, tg.nn.BatchNorm1d(3), shared, Named())
    text = "".join(well_formed(model._repr_html_()).itertext())
    assert "18 numbers" in text and "running_mean (3,), no gradient" in text and "Named(<b>)" in text and "training mode" in text
    assert "evaluation mode" in model.eval()._repr_html_()


def test_reports_in_a_notebook():
    x = tg.randn(2, 3, dtype=tg.float64, requires_grad=True)
    for report in (
        tg.autograd.gradcheck_report(lambda a: a * a, (x,)),
        tg.autograd.check_norm_invariants(tg.nn.LayerNorm(3, dtype=tg.float64), x),
        tg.autograd.gradcheck_sweep(lambda a: (a * a).sum(), (x,)),
        tg.autograd.gradcheck_power("relu"),
    ):
        well_formed(f"<div>{report._repr_html_()}</div>")

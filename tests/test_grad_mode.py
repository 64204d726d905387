"""Whether ops are recorded, and what is a leaf."""

import threading

import pytest
from test_autograd import both, leaf

import tinygrad_norm as tg
from tinygrad_norm.grad_mode import inferring

# -- Whether ops are recorded ----------------------------------------------------------------------------------------------------------


@both
def test_modes_nest_and_are_restored(lib):
    x = leaf(lib, 1.0)
    assert lib.is_grad_enabled()
    with lib.no_grad():
        assert not (x * 2).requires_grad
        with lib.enable_grad():
            assert (x * 2).requires_grad
            with lib.set_grad_enabled(False):
                assert not (x * 2).requires_grad
            assert (x * 2).requires_grad
        assert not lib.is_grad_enabled()
        with pytest.raises(ZeroDivisionError), lib.enable_grad():
            _ = 1 / 0
        assert not lib.is_grad_enabled()
        with lib.inference_mode(False):
            assert lib.is_grad_enabled()
    assert lib.is_grad_enabled()
    lib.set_grad_enabled(False)
    assert not (x * 2).requires_grad
    lib.set_grad_enabled(True)
    assert (x * 2).requires_grad


@both
def test_modes_as_decorators(lib):
    @lib.no_grad()
    def without(x):
        """Kept."""
        return x * 2

    @lib.no_grad
    def bare(x):
        return x * 2

    @lib.enable_grad()
    def with_(x, depth=2):
        return with_(x, depth - 1) if depth else x * 2

    @lib.set_grad_enabled(False)
    def off(x):
        return x * 2

    @lib.inference_mode()
    def inference(x):
        return x * 2

    @lib.inference_mode
    def bare_inference(x):
        return x * 2

    x = leaf(lib, 1.0)
    assert lib.is_grad_enabled()
    assert without.__doc__ == "Kept."
    assert without.__name__ == "without"
    assert not any(f(x).requires_grad for f in (without, bare, off, inference, bare_inference))
    with lib.no_grad():
        assert with_(x).requires_grad


@both
def test_one_set_grad_enabled_is_used_again_and_again(lib):
    off = lib.set_grad_enabled(False)
    seen = []
    for _ in range(2):
        with off:
            seen.append(lib.is_grad_enabled())
        seen.append(lib.is_grad_enabled())
    assert seen == [False, True, False, True]
    functions = [off(lib.is_grad_enabled), off(lib.is_grad_enabled)]
    assert [f() for f in functions] == [False, False]
    assert lib.is_grad_enabled()


def test_a_generator_is_not_decorated_silently():
    with pytest.raises(TypeError, match=r"cannot decorate the generator function numbers"):

        @tg.no_grad()
        def numbers():
            yield 1


@both
def test_modes_belong_to_their_thread(lib):
    seen = []
    x = leaf(lib, 1.0)
    with lib.no_grad():
        thread = threading.Thread(target=lambda: seen.append((x * 2).requires_grad))
        thread.start()
        thread.join()
    assert seen == [True]


@both
def test_inference_tensors(lib):
    x = leaf(lib, 1.0, 2.0)
    with lib.inference_mode():
        inside = x * 2
        inside.add_(1)  # allowed in there
        x_view = x[:1]
    assert not inside.requires_grad
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
        x * inside
    assert (x + inside).requires_grad  # nothing is saved
    with pytest.raises(RuntimeError, match="inference tensor outside InferenceMode"):
        inside.add_(1)
    with pytest.raises(RuntimeError, match=r"(?i)inference tensor"):
        inside.requires_grad = True
    with pytest.raises(RuntimeError, match="do not track version counter"):
        inside._version  # noqa: B018
    assert (x * inside.clone()).requires_grad
    assert x_view.tolist() == [1]


def test_another_threads_inference_mode_is_its_own():
    x, entered, done = tg.ones(2, requires_grad=True), threading.Event(), threading.Event()

    @tg.inference_mode()
    def other():
        entered.set()
        done.wait()
        with pytest.raises(ZeroDivisionError), tg.inference_mode():
            _ = 1 / 0

    thread = threading.Thread(target=other, daemon=True)
    thread.start()
    entered.wait()
    y = x * tg.ones(2)
    assert inferring
    done.set()
    thread.join()
    y.sum().backward()
    assert y._version == 0
    assert x.grad.tolist() == [1, 1]
    assert not inferring


def test_recording_costs_nothing_it_does_not_need():
    x = tg.ones(3, requires_grad=True)
    with tg.no_grad():
        y = x.exp()
    assert y.is_leaf
    assert y.grad_fn is None
    assert (tg.ones(3) * 2).grad_fn is None


# -- Leaves ----------------------------------------------------------------------------------------------------------------------------


@both
def test_leaves_and_detaching(lib):
    x = leaf(lib, 1.0, 2.0)
    y = x * 2
    assert (x.is_leaf, y.is_leaf, x.grad_fn, lib.ones(1).is_leaf) == (True, False, None, True)
    d = y.detach()
    assert d.is_leaf
    assert not d.requires_grad
    assert (d * x).requires_grad
    d[0] = 7  # one memory
    assert y[0].item() == 7
    assert y.data is not y
    assert not y.data.requires_grad
    z = x * 3
    z.detach_()
    assert z.is_leaf
    assert not z.requires_grad
    with pytest.raises(RuntimeError, match=r"(?i)can't detach views"):
        (x * 1)[0].detach_()
    with pytest.raises(RuntimeError, match="you can only change requires_grad flags of leaf variables"):
        y.requires_grad = False


@both
def test_requires_grad_turned_off_before_the_walk(lib):
    x = leaf(lib, 1.0)
    y = x * 2
    x.requires_grad_(False)
    y.backward()
    assert x.grad is None


@both
def test_mixed_types_give_each_leaf_a_gradient_of_its_own_type(lib):
    a = lib.tensor([1.0, 2.0], dtype=lib.float32, requires_grad=True)
    b = lib.tensor([3.0, 4.0], dtype=lib.float64, requires_grad=True)
    s = lib.tensor(2.0, dtype=lib.float64, requires_grad=True)
    y = a * b + a.double() + (a * s).to(lib.float64) + lib.tensor([1, 2]) * b
    assert y.dtype == lib.float64
    assert (a * s).dtype == lib.float32
    y.sum().backward()
    assert (a.grad.dtype, b.grad.dtype, s.grad.dtype) == (lib.float32, lib.float64, lib.float64)
    assert a.grad.tolist() == [6, 7]
    assert s.grad.item() == 3
    y = (a * 2).backward(lib.ones(2, dtype=lib.float64))  # converted
    assert a.grad.tolist() == [8, 9]


@both
def test_inference_is_stronger_than_enable_grad(lib):
    w = lib.ones(2, requires_grad=True)
    with lib.inference_mode(), lib.enable_grad():
        assert lib.is_grad_enabled()
        y = w * 2
        assert not y.requires_grad and y.grad_fn is None
        assert not lib.max(w * 1, 0)[0].requires_grad

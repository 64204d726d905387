"""What NumPy, torch and other processes see of a Tensor: its own memory, and never a gradient lost in silence."""

import collections
import copy
import multiprocessing
import pickle

import numpy as np
import pytest
import torch

import tinygrad_norm as tg
from tinygrad_norm import nn

Pair = collections.namedtuple("Pair", "a b")
KINDS = ["float32", "float64", "int64", "bool"]


def address(x):
    return x.data_ptr() if isinstance(x, torch.Tensor) else np.asarray(x).__array_interface__["data"][0]


def samples(kind):
    whole = tg.tensor(np.arange(12).reshape(3, 4) % 3).to(getattr(tg, kind))
    return [whole, whole.T, whole[1:, ::2], whole[0, 0]]


@pytest.mark.parametrize("kind", KINDS)
def test_ours_is_theirs_without_a_copy(kind):
    for ours in samples(kind):
        for theirs in (np.asarray(ours), np.from_dlpack(ours), torch.from_dlpack(ours), torch.as_tensor(ours)):
            assert address(theirs) == address(ours)
            assert str(theirs.dtype).removeprefix("torch.") == kind
            assert theirs.tolist() == ours.tolist()
    ours = samples(kind)[1]
    for theirs in (np.from_dlpack(ours), torch.from_dlpack(ours)):
        theirs[1, 0] = 1  # and written through
        assert ours[1, 0].item() == 1
        theirs[1, 0] = 0
        assert ours[1, 0].item() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_theirs_is_ours_without_a_copy(kind):
    theirs = [torch.arange(12).reshape(3, 4).T.to(getattr(torch, kind)), (np.arange(12).reshape(3, 4)[:, ::2]).astype(kind), np.ones((), kind)]
    for x in theirs:
        ours = tg.from_dlpack(x)
        assert address(ours) == address(x)
        assert ours.tolist() == x.tolist()
        ours.zero_()
        assert not x.any()
    parameter = tg.from_dlpack(torch.ones(3, dtype=torch.float64)).requires_grad_()
    parameter.sum().backward()
    assert parameter.grad.tolist() == [1, 1, 1]


def test_memory_outlives_its_first_owner():
    ours = tg.from_dlpack(torch.arange(1000, dtype=torch.float64))
    theirs = torch.from_dlpack(tg.arange(1000).double())
    [torch.full((1000,), 7.0, dtype=torch.float64) for _ in range(20)]
    assert ours.sum().item() == theirs.sum().item() == 499500


def test_what_cannot_be_shared_is_refused():
    wants = tg.ones(2, requires_grad=True)
    for export in (np.from_dlpack, torch.from_dlpack, tg.from_dlpack):
        with pytest.raises(BufferError, match="require gradient"):
            export(wants)
    with pytest.raises(BufferError, match=r"from_dlpack.*gradient"):
        tg.from_dlpack(torch.ones(2, requires_grad=True))
    for odd in (torch.ones(2, dtype=torch.float16), torch.ones(2, dtype=torch.bfloat16), np.ones(2, np.int32), torch.ones(2, dtype=torch.complex64)):
        with pytest.raises(TypeError, match="expected float32, float64, int64 or bool"):
            tg.from_dlpack(odd)
    backwards = tg.from_dlpack(np.arange(4.0)[::-1])  # torch ends the process at a negative stride
    assert backwards.tolist() == [3, 2, 1, 0]
    for export in (tg.Tensor.__dlpack__, tg.from_dlpack):
        with pytest.raises(BufferError, match=r"negative stride.*clone\(\)"):
            export(backwards)
    assert torch.from_dlpack(backwards.clone()).tolist() == [3, 2, 1, 0]
    with pytest.raises(TypeError, match="got a list"):
        tg.from_dlpack([1.0])
    with pytest.raises(BufferError, match="on the CPU"):
        tg.from_dlpack(type("OnGPU", (), {"__dlpack__": None, "__dlpack_device__": lambda self: (2, 0)})())


t = tg.tensor([1.0, 2.0, 3.0], requires_grad=True)
ARRAY = np.array([4.0, 5.0, 6.0], np.float32)
LOSSES = {
    "np.sin": lambda: np.sin(t),
    "np.add": lambda: np.add(ARRAY, t),
    "np.add out": lambda: np.add(ARRAY, t, out=ARRAY.copy()),
    "np.add.reduce": lambda: np.add.reduce(t),
    "np.add.at": lambda: np.add.at(ARRAY.copy(), [0, 1, 2], t),
    "np.concatenate": lambda: np.concatenate([t]),
    "np.concatenate nested": lambda: np.block([[ARRAY, t]]),
    "np.stack": lambda: np.stack((ARRAY, t)),
    "np.stack of another sequence": lambda: np.stack(collections.deque([ARRAY, t])),
    "np.sum": lambda: np.sum(t),
    "np.mean": lambda: np.mean(t),
    "np.std": lambda: np.std(t),
    "np.max": lambda: np.max(t),
    "np.clip": lambda: np.clip(t, 0, 1),
    "np.dot": lambda: np.dot(ARRAY, t),
    "np.einsum": lambda: np.einsum("i,i", ARRAY, t),
    "np.where": lambda: np.where(ARRAY > 4, t, ARRAY),
    "np.array_equal": lambda: np.array_equal(t, t),
    "np.allclose": lambda: np.allclose(ARRAY, t),
    "np.linalg.norm": lambda: np.linalg.norm(t),
    "np.copyto": lambda: np.copyto(ARRAY.copy(), t),
    "np.asarray": lambda: np.asarray(t),
    "np.array of a list": lambda: np.array([t[0], t[1]]),
    "assignment": lambda: ARRAY.copy().__setitem__(slice(None), t),
    "torch.tensor": lambda: torch.as_tensor(t),
    "nn.Parameter": lambda: np.square(nn.Parameter(tg.ones(2))),
    "result": lambda: np.exp(t * 2),
}


@pytest.mark.parametrize("name", LOSSES)
def test_numpy_functions_never_drop_a_gradient(name):
    with pytest.raises((RuntimeError, BufferError), match=r"detach\(\)"):
        LOSSES[name]()
    if name == "np.sum":
        with pytest.raises(RuntimeError, match=r"numpy\.sum: NumPy does not record .*\[3\]"):
            LOSSES[name]()


def test_numpy_functions_take_tensors_without_a_gradient():
    u = t.detach()
    assert np.sin(u).tolist() == np.sin(u.numpy()).tolist()
    assert np.sum(u) == 6
    assert np.std(u, ddof=1) == 1
    assert np.concatenate([u, ARRAY]).tolist() == [1, 2, 3, 4, 5, 6]
    assert np.array_equal(u, u)
    for several in (collections.deque([u, ARRAY]), Pair(u, ARRAY), [Pair(u, u), Pair(u, u)]):  # whatever holds them
        assert np.stack(several).tolist() == np.stack([np.asarray(one) for one in several]).tolist()
    with pytest.raises(TypeError, match="sequence"):
        np.concatenate({"u": u}.values())  # as with arrays
    assert (np.shape(t), np.ndim(t), np.size(t), np.shares_memory(t, u)) == ((3,), 1, 3, True)
    assert np.asarray(u, dtype=np.float64).dtype == np.float64
    assert not np.shares_memory(np.array(u, copy=True), u.numpy())
    with pytest.raises(ValueError, match="without a copy"):
        np.array(u, dtype=np.float64, copy=False)


def test_operators_between_arrays_and_tensors_belong_to_the_tensor():
    for wrong in (lambda: ARRAY + t, lambda: ARRAY * t, lambda: ARRAY @ t, lambda: ARRAY**t, lambda: t + ARRAY):
        with pytest.raises(TypeError, match=r"got ndarray: make a Tensor of it with tensor\(\.\.\.\) or from_numpy\(\.\.\.\)"):
            wrong()
    for product in (np.float32(2) * t, np.float64(2) * t, t * np.float64(2), np.int64(2) * t):
        assert isinstance(product, tg.Tensor) and product.requires_grad
        assert product.tolist() == [2, 4, 6]


# -- copies, and other processes ---------------------------------------------------------------------------------------------------------


def network():
    torch_like = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2), nn.LayerNorm(2))
    shared = torch_like[0].weight
    torch_like.register_parameter("tied", shared)
    return torch_like


def trained():
    model = network()
    optimizer = tg.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(tg.randn(6, 4)).pow(2).sum().backward()
        optimizer.step()
    return model, optimizer


def one_step(model, optimizer):
    tg.manual_seed(5)
    optimizer.zero_grad()
    loss = model(tg.randn(6, 4)).pow(2).sum()
    loss.backward()
    optimizer.step()
    return [loss.item(), *(value.tolist() for value in model.state_dict().values())]


@pytest.mark.parametrize("how", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_a_copy_of_model_and_optimizer_trains_on_alike(how):
    model, optimizer = trained()
    twin, other = how((model, optimizer))
    assert twin.tied is twin[0].weight  # one parameter in two places stays one
    assert other.param_groups[0]["params"][0] is next(twin.parameters())
    assert not np.shares_memory(twin[0].weight, model[0].weight)
    assert one_step(model, optimizer) == one_step(twin, other)


def test_copies_of_tensors():
    x = tg.randn(2, 3, requires_grad=True)
    shallow, deep = copy.copy(x), copy.deepcopy(x)
    assert np.shares_memory(shallow, x) and not np.shares_memory(deep, x)
    assert shallow.requires_grad and deep.requires_grad
    for spread in (x.detach().T, x.detach()[:, ::2], tg.ones(()), tg.ones(0, 3), tg.ones(3) > 0):
        back = pickle.loads(pickle.dumps(spread))
        assert (back.tolist(), back.shape, back.dtype) == (spread.tolist(), spread.shape, spread.dtype)
    generator = tg.Generator().manual_seed(3)
    tg.randn(3, generator=generator)
    assert pickle.loads(pickle.dumps(generator)).normal((5,)).tolist() == generator.normal((5,)).tolist()
    for lost in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(RuntimeError, match=r"detach\(\)"):
            lost(x * 2)


def _in_child(model, optimizer, x, queue):
    queue.put((one_step(model, optimizer), x, model))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # CPython 3.12 on fork, and torch has threads
@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_modules_travel_to_other_processes_and_back(method):
    model, optimizer = trained()
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(model, optimizer, tg.arange(3), queue))
    child.start()
    theirs, x, returned = queue.get(timeout=120)
    child.join(60)
    assert child.exitcode == 0
    assert theirs == one_step(model, optimizer)
    assert x.tolist() == [0, 1, 2]
    assert [v.tolist() for v in returned.state_dict().values()] == theirs[1:]

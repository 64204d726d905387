"""The state of optimizers: saved, loaded, copied, and refused."""

import copy
import pickle

import numpy as np
import pytest
import torch
from test_optim import ONE_OF_EACH, TYPES, assert_near, assert_same_run, case_id, give_grads, make_params

from tinygrad_norm.optim import SGD, Adam, AdamW
from tinygrad_norm.tensor import Tensor


def as_torch(value):
    if isinstance(value, Tensor):
        return torch.from_numpy(np.array(value._data))
    return {k: as_torch(v) for k, v in value.items()} if isinstance(value, dict) else value


def from_torch(value):
    if isinstance(value, torch.Tensor):
        return Tensor(value.detach().numpy().copy())
    return {k: from_torch(v) for k, v in value.items()} if isinstance(value, dict) else value


def run_for(optimizer, params, steps):
    for step in steps:
        rng = np.random.default_rng(step)
        for p in params:
            p.grad = Tensor(np.asarray(rng.standard_normal(p.shape), p._data.dtype))
        optimizer.step()


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(("make", "make_oracle", "options"), ONE_OF_EACH, ids=case_id)
def test_a_saved_run_goes_on_to_the_same_numbers(make, make_oracle, options, kind):
    ours, _ = make_params(kind)
    optimizer = make(ours, **options)
    run_for(optimizer, ours, range(3))
    optimizer.param_groups[0]["lr"] *= 0.5
    saved = pickle.loads(pickle.dumps(optimizer.state_dict()))
    again = [Tensor(p._data.copy(), True) for p in ours]
    other = make(again, **{**options, "lr": 123.0})
    other.load_state_dict(saved)
    run_for(optimizer, ours, range(3, 6))
    run_for(other, again, range(3, 6))
    for p, q in zip(ours, again):
        assert_near(p, torch.from_numpy(q._data))  # the copies are contiguous: kernel, not reference
        assert list(optimizer.state[p]) == list(other.state[q])


@pytest.mark.parametrize(("make", "make_oracle", "options"), ONE_OF_EACH, ids=case_id)
def test_state_moves_to_torch_and_back(make, make_oracle, options):
    ours, theirs = make_params(np.float32)
    optimizer, oracle = make(ours, **options), make_oracle(theirs, **options)
    for step in range(3):
        give_grads(ours, theirs, step)
        optimizer.step()
        oracle.step()
    mine, its = optimizer.state_dict(), oracle.state_dict()
    assert list(mine) == list(its)
    assert mine["state"].keys() == its["state"].keys()
    for number, values in mine["state"].items():
        assert [(k, v.dtype.name, v.shape) for k, v in values.items()] == [
            (k, str(v.dtype).removeprefix("torch."), tuple(v.shape)) for k, v in its["state"][number].items()
        ]
    for group, expected in zip(mine["param_groups"], its["param_groups"]):
        assert group == {k: v for k, v in expected.items() if k in group}
        assert set(expected) - set(group) <= {"foreach", "fused", "capturable", "differentiable"}
        assert [k for k in expected if k in group] == list(group)
    with torch.no_grad():
        for p, q in zip(ours, theirs):
            q.copy_(torch.from_numpy(np.array(p._data)))
    fresh, fresh_oracle = make(ours, lr=9.0), make_oracle(theirs, lr=9.0)
    fresh.load_state_dict(from_torch(its))
    fresh_oracle.load_state_dict(as_torch(mine))
    for step in range(3, 6):
        give_grads(ours, theirs, step)
        fresh.step()
        fresh_oracle.step()
    assert_same_run(fresh, fresh_oracle, ours, theirs)


def test_loading_copies_and_converts():
    p = Tensor(np.ones(3), True)
    optimizer = Adam([p])
    run_for(optimizer, [p], range(2))
    saved = optimizer.state_dict()
    q = Tensor(np.ones(3, np.float32), True)
    other = AdamW([q])
    for number in (7, 7.0, np.float32(7)):
        saved["state"][0]["step"] = number
        other.load_state_dict(saved)
        assert other.state[q]["step"]._data == 7
        assert other.state[q]["step"]._data.dtype == np.float32
    state = other.state[q]
    assert state["exp_avg"]._data.dtype == np.float32
    assert state["exp_avg"]._data is not saved["state"][0]["exp_avg"]._data
    assert other.param_groups[0]["decoupled_weight_decay"] is True  # AdamW stays AdamW
    assert other.param_groups[0]["params"][0] is q
    assert other.param_groups[0] is not saved["param_groups"][0]
    before = saved["state"][0]["exp_avg"]._data.copy()
    run_for(other, [q], range(2))
    np.testing.assert_array_equal(saved["state"][0]["exp_avg"]._data, before)
    del saved["param_groups"][0]["eps"]
    saved["state"]["elsewhere"] = [1]
    other.load_state_dict(saved)
    assert other.param_groups[0]["eps"] == 1e-8
    assert other.state["elsewhere"] == [1] == other.state_dict()["state"]["elsewhere"]


def broken(change):
    def load(optimizer):
        saved = copy.deepcopy(optimizer.state_dict())
        change(saved)
        optimizer.load_state_dict(saved)

    return load


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["param_groups"].append(d["param_groups"][0]), "different number of parameter groups: 2; expected 1"),
        (lambda d: d["param_groups"][0]["params"].pop(), "doesn't match the size of optimizer's group: group 0 has 1 parameters; expected 2"),
        (lambda d: d["param_groups"][0].update(lr=-1.0), "Invalid learning rate: -1.0"),
        (lambda d: d["param_groups"][0].update(betas=(0.9, 1.0)), "Invalid beta parameter at index 1: 1.0"),
        (
            lambda d: d["state"][1].update(exp_avg=Tensor(np.ones((3, 2)))),
            r"exp_avg of parameter 1 is shape \[3, 2\]; expected a Tensor of shape \[2, 3\]",
        ),
        (lambda d: d["state"][1].update(exp_avg_sq=np.ones((2, 3))), "exp_avg_sq of parameter 1 is ndarray; expected a Tensor"),
        (lambda d: d["state"].update({1: {"momentum_buffer": Tensor(np.ones((2, 3)))}}), "parameter 1 lacks step, exp_avg, exp_avg_sq: it is from"),
        (lambda d: d["param_groups"][0].update(amsgrad=True), "parameter 0 lacks max_exp_avg_sq"),
    ],
)
def test_a_failed_load_changes_nothing(change, message):
    params = [Tensor(np.ones(2), True), Tensor(np.ones((2, 3)), True)]
    optimizer = Adam(params)
    run_for(optimizer, params, range(2))
    groups, state = optimizer.param_groups, optimizer.state
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=message):
        broken(change)(optimizer)
    assert optimizer.param_groups is groups
    assert optimizer.state is state
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for number, values in before["state"].items():
        for key, value in values.items():
            np.testing.assert_array_equal(after["state"][number][key]._data, value._data)


def test_a_copied_or_pickled_optimizer_goes_on_by_itself():
    p = Tensor(np.ones(3), True)
    optimizer = SGD([p], lr=0.1, momentum=0.9)
    run_for(optimizer, [p], range(2))
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        (q,) = other.param_groups[0]["params"]
        assert q is not p
        assert list(other.state) == [q]
        before = p._data.copy()
        run_for(other, [q], range(2, 4))
        np.testing.assert_array_equal(p._data, before)
        assert not np.array_equal(q._data, before)


def test_a_parameter_that_cannot_be_written_to_is_refused_before_any_step():
    fixed = np.ones(3, np.float32)
    fixed.flags.writeable = False
    for p in (Tensor(fixed, True), Tensor(np.broadcast_to(np.ones(1), 3), True)):
        for make in (SGD, Adam):
            with pytest.raises(ValueError, match=r"can't optimize parameter 1, of shape \[3\]: it was expanded, or is over read-only memory"):
                make([Tensor(np.ones(2), True), p])

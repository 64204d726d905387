"""Schedulers of the learning rate, epoch by epoch beside torch's."""

import copy
import functools
import gc
import math
import pickle
import warnings
import weakref

import numpy as np
import pytest
import torch

from tinygrad_norm.optim import SGD, Adam, lr_scheduler
from tinygrad_norm.tensor import Tensor

OURS, THEIRS = lr_scheduler, torch.optim.lr_scheduler


class Warmup:
    def __init__(self, steps):
        self.steps = steps

    def __call__(self, epoch):
        return min(1.0, (epoch + 1) / self.steps)


SCHEDULES = [
    ("StepLR", {"step_size": 3}),
    ("StepLR", {"step_size": 7, "gamma": 0.5}),
    ("StepLR", {"step_size": 1, "gamma": 1.1}),
    ("StepLR", {"step_size": np.int64(2), "gamma": 0.5}),
    ("CosineAnnealingLR", {"T_max": 50}),
    ("CosineAnnealingLR", {"T_max": 7, "eta_min": 1e-3}),
    ("CosineAnnealingLR", {"T_max": 1, "eta_min": 0.01}),
    ("CosineAnnealingLR", {"T_max": 12.5}),
    ("LambdaLR", {"lr_lambda": lambda epoch: 0.95**epoch}),
    ("LambdaLR", {"lr_lambda": [Warmup(10), lambda epoch: 1 / (1 + epoch)]}),
]


def optimizers(kind="SGD", lr=0.1, second=0.02):
    ours = {"SGD": SGD, "Adam": Adam}[kind]([{"params": [Tensor(np.ones(2), True)]}, {"params": [Tensor(np.ones(1), True)], "lr": second}], lr=lr)
    theirs = getattr(torch.optim, kind)([{"params": [torch.ones(2)]}, {"params": [torch.ones(1)], "lr": second}], lr=lr)
    return ours, theirs


def rates(optimizer):
    return [group["lr"] for group in optimizer.param_groups]


def assert_same(optimizer, oracle, *pairs):
    np.testing.assert_allclose(rates(optimizer), rates(oracle), rtol=0, atol=1e-12)
    for scheduler, expected in pairs:
        np.testing.assert_allclose(scheduler.get_last_lr(), expected.get_last_lr(), rtol=0, atol=1e-12)
        assert scheduler.last_epoch == expected.last_epoch
        np.testing.assert_allclose(scheduler.base_lrs, expected.base_lrs)
    assert [g.get("initial_lr") for g in optimizer.param_groups] == [g.get("initial_lr") for g in oracle.param_groups]


@pytest.mark.parametrize(("name", "options"), SCHEDULES)
@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_sixty_epochs_as_torch(name, options, kind):
    optimizer, oracle = optimizers(kind)
    scheduler, expected = getattr(OURS, name)(optimizer, **options), getattr(THEIRS, name)(oracle, **options)
    assert_same(optimizer, oracle, (scheduler, expected))
    for epoch in range(60):
        if epoch == 20:  # the recursion goes on from what it finds; a closed form would not
            optimizer.param_groups[0]["lr"] = oracle.param_groups[0]["lr"] = 0.07
        for run in (optimizer, oracle, scheduler, expected):
            run.step()
        assert_same(optimizer, oracle, (scheduler, expected))
        assert all(type(lr) is float for lr in rates(optimizer))


def test_two_schedulers_on_one_optimizer():
    optimizer, oracle = optimizers()
    pairs = [
        (getattr(OURS, name)(optimizer, **options), getattr(THEIRS, name)(oracle, **options))
        for name, options in (("CosineAnnealingLR", {"T_max": 9}), ("StepLR", {"step_size": 4}))
    ]
    for _ in range(30):
        for run in (optimizer, oracle, *(s for pair in pairs for s in pair)):
            run.step()
        assert_same(optimizer, oracle, *pairs)


@pytest.mark.parametrize(("name", "options"), SCHEDULES)
def test_the_closed_form(name, options):
    optimizer, oracle = optimizers()
    scheduler, expected = getattr(OURS, name)(optimizer, **options), getattr(THEIRS, name)(oracle, **options)
    optimizer.step(), oracle.step()
    for epoch in (1, 5, 30, 2):
        with pytest.warns(UserWarning, match="epoch parameter in `scheduler.step"):
            scheduler.step(epoch)
        with pytest.warns(UserWarning, match="epoch parameter in `scheduler.step"):
            expected.step(epoch)
        assert_same(optimizer, oracle, (scheduler, expected))


@pytest.mark.parametrize(("name", "options"), SCHEDULES)
def test_the_recursion_is_the_closed_form(name, options):
    optimizer, _ = optimizers()
    scheduler = getattr(OURS, name)(optimizer, **options)
    closed = getattr(scheduler, "_get_closed_form_lr", None)
    for _ in range(40):
        optimizer.step()
        scheduler.step()
        if closed is not None and options.get("T_max") != 12.5:  # the turn of the recursion is at an integer T_max
            np.testing.assert_allclose(rates(optimizer), closed(), atol=1e-12)


@pytest.mark.parametrize(("name", "options"), SCHEDULES)
def test_a_saved_schedule_goes_on(name, options):
    optimizer, oracle = optimizers()
    scheduler, expected = getattr(OURS, name)(optimizer, **options), getattr(THEIRS, name)(oracle, **options)
    for _ in range(8):
        for run in (optimizer, oracle, scheduler, expected):
            run.step()
    saved = copy.deepcopy(scheduler.state_dict())
    theirs = expected.state_dict()
    assert set(saved) == set(theirs)
    for key in set(saved) - {"lr_lambdas", "_last_lr"}:
        assert saved[key] == theirs[key], key
    other, _ = optimizers(lr=5.0)
    again = getattr(OURS, name)(other, **options)
    for source in (saved, copy.deepcopy(theirs)):  # torch's state is as good
        again.load_state_dict(source)
        assert "lr_lambdas" not in saved or len(saved["lr_lambdas"]) == 2
    other.load_state_dict(optimizer.state_dict())
    for _ in range(12):
        for run in (optimizer, other, scheduler, again):
            run.step()
        assert rates(other) == rates(optimizer)
        assert again.get_last_lr() == scheduler.get_last_lr()


@pytest.mark.parametrize(("name", "options"), SCHEDULES)
def test_resuming_by_last_epoch(name, options):
    optimizer, oracle = optimizers()
    for run in (optimizer, oracle):
        for group in run.param_groups:
            group["initial_lr"] = group["lr"]
    scheduler, expected = (getattr(m, name)(o, last_epoch=6, **options) for m, o in ((OURS, optimizer), (THEIRS, oracle)))
    assert_same(optimizer, oracle, (scheduler, expected))
    for _ in range(10):
        for run in (optimizer, oracle, scheduler, expected):
            run.step()
        assert_same(optimizer, oracle, (scheduler, expected))
    fresh, fresh_oracle = optimizers()
    for module, run in ((OURS, fresh), (THEIRS, fresh_oracle)):
        with pytest.raises(KeyError, match=r"param 'initial_lr' is not specified in param_groups\[0\] when resuming scheduler"):
            getattr(module, name)(run, last_epoch=6, **options)


def test_state_of_callable_objects_is_saved():
    optimizer, _ = optimizers()
    saved = OURS.LambdaLR(optimizer, [Warmup(10), lambda epoch: 1.0]).state_dict()
    assert saved["lr_lambdas"] == [{"steps": 10}, None]
    scheduler = OURS.LambdaLR(optimizer, [Warmup(3), lambda epoch: 1.0])
    scheduler.load_state_dict(saved)
    assert scheduler.lr_lambdas[0].steps == 10
    assert "lr_lambdas" in saved


@pytest.mark.parametrize("module", [OURS, THEIRS], ids=["ours", "torch"])
class TestOrder:
    """One set of expectations for both."""

    def make(self, module):
        return optimizers()[module is THEIRS]

    def test_a_step_of_the_scheduler_first_warns_once(self, module):
        optimizer = self.make(module)
        scheduler = module.StepLR(optimizer, 2)
        with pytest.warns(UserWarning, match=r"Detected call of `lr_scheduler.step\(\)` before `optimizer.step\(\)`"):
            scheduler.step()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            scheduler.step()

    def test_the_right_order_does_not_warn(self, module):
        optimizer = self.make(module)
        first, second = module.StepLR(optimizer, 2), module.CosineAnnealingLR(optimizer, 5)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for _ in range(3):
                optimizer.step()
                first.step()
                second.step()

    def test_a_step_that_was_replaced_warns(self, module):
        optimizer = self.make(module)
        scheduler = module.StepLR(optimizer, 2)
        optimizer.step = functools.partial(type(optimizer).step, optimizer)
        with pytest.warns(UserWarning, match=r"Seems like `optimizer.step\(\)` has been overridden after"):
            scheduler.step()

    def test_get_lr_outside_of_step_warns(self, module):
        scheduler = module.StepLR(self.make(module), 2)
        with pytest.warns(UserWarning, match=r"please use `get_last_lr\(\)`"):
            scheduler.get_lr()

    def test_closures_and_results_pass_through_the_watched_step(self, module):
        optimizer = self.make(module)
        module.StepLR(optimizer, 2)
        assert optimizer.step(lambda: 7) == 7
        assert optimizer.step(closure=lambda: 8) == 8
        assert optimizer.step() is None
        assert type(optimizer).step.__doc__ == optimizer.step.__doc__

    def test_a_watched_optimizer_is_gone_with_its_name(self, module):
        gc.collect()
        gc.disable()
        try:
            optimizer = self.make(module)
            scheduler = module.StepLR(optimizer, 2)
            gone = weakref.ref(optimizer)
            del optimizer, scheduler
            assert gone() is None
        finally:
            gc.enable()

    def test_what_is_refused(self, module):
        with pytest.raises(TypeError, match="int is not an Optimizer"):
            module.StepLR(3, 2)
        with pytest.raises(ValueError, match=r"Expected 2 lr_lambdas,.*but got 1"):
            module.LambdaLR(self.make(module), [lambda epoch: 1.0])
        with pytest.raises(NotImplementedError):
            module.LRScheduler(self.make(module))


def test_what_only_this_refuses():
    for bad in (0, -1, math.nan):
        with pytest.raises(ValueError, match="step_size must be a positive number of epochs; got"):
            OURS.StepLR(optimizers()[0], bad)
        with pytest.raises(ValueError, match="T_max must be a positive number of epochs; got"):
            OURS.CosineAnnealingLR(optimizers()[0], bad)
    with pytest.raises(TypeError, match="NoneType is not an Optimizer"):
        OURS.LambdaLR(None, lambda epoch: 1.0)


def test_a_schedule_of_ones_own():
    class Halve(OURS.LRScheduler):
        def get_lr(self):
            return [group["lr"] / 2 for group in self.optimizer.param_groups]

    optimizer, _ = optimizers(lr=0.4)
    scheduler = Halve(optimizer)
    assert scheduler.get_last_lr() == [0.2, 0.01]
    optimizer.step()
    scheduler.step()
    assert rates(optimizer) == [0.1, 0.005]
    with pytest.warns(UserWarning, match="epoch parameter"):
        scheduler.step(9)
    assert scheduler.last_epoch == 9
    assert rates(optimizer) == [0.05, 0.0025]


def test_optimizers_with_a_scheduler_are_copied_and_pickled():
    optimizer, _ = optimizers()
    scheduler = OURS.StepLR(optimizer, 1, gamma=0.5)
    other, again = copy.deepcopy(optimizer), pickle.loads(pickle.dumps(scheduler))
    optimizer.step()
    scheduler.step()
    assert rates(other) == rates(again.optimizer) == [0.1, 0.02]
    assert rates(optimizer) == [0.05, 0.01]
    other.step()


def test_the_rate_reaches_the_parameters():
    p = Tensor(np.zeros(1), True)
    optimizer = SGD([p], lr=1.0)
    scheduler = OURS.StepLR(optimizer, 1, gamma=0.5)
    for _ in range(4):
        p.grad = Tensor(np.ones(1))
        optimizer.step()
        scheduler.step()
    assert p._data == -(1 + 0.5 + 0.25 + 0.125)

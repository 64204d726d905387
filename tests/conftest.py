"""Every test starts from the same seeds, with gradients on and the usual printing, whatever the one before it did."""

import os

import pytest
from hypothesis import settings

import tinygrad_norm as tg

settings.register_profile("stable", deadline=None, derandomize=True, database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "stable"))


@pytest.fixture(autouse=True)
def _same_start():
    tg.manual_seed(0)
    yield
    left_off = not tg.is_grad_enabled()
    tg.set_grad_enabled(True)
    tg.set_printoptions(profile="default")
    assert not left_off, "the test left gradients switched off"

"""Every example in a docstring of the package is run."""

import doctest
import importlib
import pkgutil

import numpy as np
import pytest

import tinygrad_norm as tg

MODULES = ["tinygrad_norm", *(m.name for m in pkgutil.walk_packages(tg.__path__, "tinygrad_norm.") if not m.name.endswith("__main__"))]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(name)
    with np.printoptions():
        tg.set_printoptions(profile="default")
        result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


def test_there_are_many():
    found = sum(len(t.examples) for name in MODULES for t in doctest.DocTestFinder().find(importlib.import_module(name)))
    assert found > 150

"""The examples in the docstrings run."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["hypercolumns", "projection"])
def test_examples(name):
    module = importlib.import_module(f"difal_kernels.ops.{name}")
    failed, tried = doctest.testmod(module)
    assert failed == 0
    assert tried > 0

"""Imports the libraries first: what they warn of when imported is not ours, and would be an error in a test."""

import contextlib
import importlib
import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    for name in ("skactiveml.pool", "modAL.models", "baal.active.heuristics", "small_text", "apricot"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)

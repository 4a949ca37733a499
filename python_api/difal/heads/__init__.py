"""Heads: per-pixel classifiers on features, trained from scratch every round. Adding one is adding a file."""

import importlib
import pkgutil

from difal.heads.base import ABSENT, HEADS, Head, check_head, drop, load_head, made_of, make_head, register, train_head

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "ABSENT",
    "HEADS",
    "Head",
    "check_head",
    "drop",
    "load_head",
    "made_of",
    "make_head",
    "register",
    "train_head",
]

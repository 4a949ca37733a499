"""Earlier names of modules, functions and arguments: they work for one release, each with a DeprecationWarning."""

from __future__ import annotations

import functools
import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable)

# Earlier module: the module that has its names now, and names that are elsewhere or called otherwise.
MODULES: dict[str, tuple[str, dict[str, str]]] = {
    "difal.bank": (
        "difal.features.cache",
        {
            "Bank": "difal.features.cache.FeatureCache",
            "build_bank": "difal.features.build.build_cache",
            "draw_candidates": "difal.features.pixels.draw_candidates",
            "encode": "difal.features.pixels.encode",
            "pixel_features": "difal.features.pixels.pixel_features",
        },
    ),
    "difal.dense": ("difal.features.dense", {"TestSet": "difal.features.test_set.TestSet"}),
    "difal.figures": ("difal.report.figures", {"click_places": "difal.report.figures.click_positions"}),
    "difal.head": ("difal.heads", {}),
    "difal.labels": ("difal.run.labels", {}),
    "difal.ledger": ("difal.run.directory", {"Ledger": "difal.run.directory.RunDirectory"}),
    "difal.loop": (
        "difal.run.loop",
        {
            "LazyEncoder": "difal.encoders.lazy.LazyEncoder",
            "make_features": "difal.features.compute.make_features",
            "open_config_data": "difal.data.open_config_data",
        },
    ),
    "difal.oracle": ("difal.run.oracles", {}),
    "difal.pictures": ("difal.run.pictures", {}),
    "difal.predict": ("difal.run.predict", {}),
    "difal.stages": ("difal.timing", {}),
    "difal.sweep_runs": ("difal.sweep.runs", {}),
    "difal.sweep_table": ("difal.sweep.table", {}),
    "difal.workers": ("difal.threads", {}),
}
# Names that moved out of modules that are still there.
NAMES = {"difal.config.make_config": "difal.presets.make_config"}


def moved(module: str, name: str) -> Any:
    """What `module` had under `name`; for a module's `__getattr__`.

    Raises:
        AttributeError: it never had it.
    """
    now = NAMES.get(f"{module}.{name}")
    if now is None:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    warnings.warn(f"{module}.{name} is {now} now", DeprecationWarning, stacklevel=3)
    return _object(now)


def renamed_argument(old: str, new: str) -> Callable[[F], F]:
    """Let a function's argument `new` be given as `old`, too."""

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def accept(*args, **kwargs):
            if old in kwargs:
                warnings.warn(f"{function.__name__}({old}=) is {new}= now", DeprecationWarning, stacklevel=2)
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return accept  # type: ignore[return-value]

    return decorate


def _object(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


class _EarlierModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the earlier modules: each looks its names up in the modules that have them now."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(fullname, self) if fullname in MODULES else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        now, elsewhere = MODULES[module.__name__]
        warnings.warn(f"{module.__name__} is {now} now", DeprecationWarning, stacklevel=2)

        def look_up(name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
            return _object(elsewhere.get(name, f"{now}.{name}"))

        module.__getattr__ = look_up  # type: ignore[method-assign]


def install() -> None:
    """Have `import` find the earlier modules, after everything else was tried."""
    if not any(isinstance(one, _EarlierModules) for one in sys.meta_path):
        sys.meta_path.append(_EarlierModules())

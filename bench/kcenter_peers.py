"""Farthest-first traversal as other libraries have it: f(features, budget) -> indices, from row 0 where one can say.

A function imports what it needs, so that the names are known without any of it.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch


def difal(x: torch.Tensor, budget: int) -> torch.Tensor:
    from difal_kernels import kcenter_greedy

    return kcenter_greedy(x, budget)


def naive_torch(x: torch.Tensor, budget: int) -> torch.Tensor:
    """The loop that is found everywhere: all distances to the newest centre, in the features' own precision."""
    import torch

    picks = torch.zeros(budget, dtype=torch.int64)
    nearest = torch.full((len(x),), torch.inf)
    for t in range(1, budget):
        nearest = torch.minimum(nearest, torch.linalg.norm(x - x[picks[t - 1]], dim=1))
        picks[t] = nearest.argmax()
    return picks


def anomalib_class() -> type:
    """anomalib's KCenterGreedy, from its own two files: the package imports lightning, OpenVINO and all its models."""
    package = importlib.util.find_spec("anomalib")
    if package is None or not package.submodule_search_locations:
        raise ImportError("anomalib is not installed; run: pip install --no-deps anomalib")
    folder = Path(package.submodule_search_locations[0]) / "models" / "components"
    name = "anomalib.models.components.dimensionality_reduction"
    reduction = _module("difal_bench_projection", folder / "dimensionality_reduction" / "random_projection.py")
    shown = types.ModuleType(name)
    shown.SparseRandomProjection = reduction.SparseRandomProjection
    before = {key: sys.modules.get(key) for key in _parents(name)}
    sys.modules.update({key: types.ModuleType(key) for key in before if before[key] is None} | {name: shown})
    try:
        return _module("difal_bench_sampling", folder / "sampling" / "k_center_greedy.py").KCenterGreedy
    finally:
        for key, module in before.items():
            if module is None:
                del sys.modules[key]
            else:
                sys.modules[key] = module


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: k + 1]) for k in range(len(parts))]


def _module(name: str, path: Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def anomalib(x: torch.Tensor, budget: int) -> list[int]:
    """As PatchCore calls it: on a random projection, from a random row."""
    return _anomalib(x, budget)


def anomalib_unprojected(x: torch.Tensor, budget: int) -> list[int]:
    """The same class on rows of two dimensions, which it does not project."""
    return _anomalib(x[:, None], budget)


def _anomalib(x: torch.Tensor, budget: int) -> list[int]:
    import torch

    torch.manual_seed(0)
    with redirect_stderr(StringIO()):
        return anomalib_class()(x, budget / len(x) + 1e-12).select_coreset_idxs()


def fpsample_vanilla(x: torch.Tensor, budget: int) -> np.ndarray:
    import fpsample

    return fpsample.fps_sampling(x.numpy(), budget, start_idx=0).astype("int64")


def fpsample_buckets(x: torch.Tensor, budget: int) -> np.ndarray:
    """Buckets of a k-d tree, of the height that its authors advise for many points."""
    import fpsample

    height = 9 if len(x) > 100_000 else 7
    return fpsample.bucket_fps_kdline_sampling(x.numpy(), budget, h=height, start_idx=0).astype("int64")


def scikit_matter(x: torch.Tensor, budget: int) -> np.ndarray:
    from skmatter.sample_selection import FPS

    return FPS(n_to_select=budget, initialize=0).fit(x.numpy().astype("float64")).selected_idx_


PEERS: dict[str, tuple[Callable, str]] = {  # name: the function, and the distribution that it needs
    "difal": (difal, "difal-kernels"),
    "naive torch loop": (naive_torch, "torch"),
    "anomalib": (anomalib, "anomalib"),
    "anomalib, not projected": (anomalib_unprojected, "anomalib"),
    "fpsample": (fpsample_vanilla, "fpsample"),
    "fpsample, buckets": (fpsample_buckets, "fpsample"),
    "scikit-matter": (scikit_matter, "skmatter"),
}

"""PowerBALD: BALD with noise, for picking batches."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from ..._checks import as_choice, as_float
from ..._dispatch import Op
from ..._settings import on_cpu_by_default
from .fused import BACKENDS
from .problem import Problem, prepare
from .scores import bald


@on_cpu_by_default
def power_bald(
    samples: Any,
    *,
    generator: torch.Generator,
    beta: float = 1.0,
    noise: str = "gumbel",
    input: str = "logits",
    sample_dim: int = -2,
    class_dim: int = -1,
    check_finite: bool = True,
    backend: str = "auto",
) -> Any:
    """Compute PowerBALD: log BALD plus noise, so that the best few are no cluster of near-copies.

        ln bald + g / beta,  g ~ Gumbel(0, 1) for each position

    The k largest are a draw of k positions without replacement, with probabilities proportional to bald^beta.

    Args:
        samples: predictions of K samples per position, torch.Tensor or numpy.ndarray of a float type,
            (..., K, C) unless `sample_dim` and `class_dim` say otherwise.
        generator: the source of the noise; the same seed gives the same answer.
        beta: coldness, above 0: the larger, the nearer to plain BALD.
        noise: "gumbel", or "pareto" for g ~ Pareto(1, 1) on top of ln max(bald, 1e-9), which is what Woo's
            code and the paper's released code add; the k largest are then no draw from a power of bald.
        input, sample_dim, class_dim, check_finite, backend: as in `disagreement`.

    Returns:
        float32 array of the shape of the positions; with "gumbel" -inf where bald is 0.

    Raises:
        TypeError: `generator` is no torch.Generator, `beta` no number; or as in `disagreement`.
        ValueError: `beta` is not above 0, `noise` unknown; or as in `disagreement`.

    References:
        Kirsch et al. (2021), "Stochastic Batch Acquisition", arXiv 2106.12059.

    Example:
        >>> import torch
        >>> from difal_kernels import power_bald
        >>> samples = torch.randn(100, 5, 4, generator=torch.Generator().manual_seed(0))
        >>> power_bald(samples, generator=torch.Generator().manual_seed(1)).topk(3).indices.shape
        torch.Size([3])
    """
    beta = _check_noise(generator, beta, noise)
    information = bald(
        samples,
        input=input,
        sample_dim=sample_dim,
        class_dim=class_dim,
        check_finite=check_finite,
        backend=backend,
    )
    scores = torch.as_tensor(information).double()
    exponential = torch.empty(scores.shape, dtype=torch.float64, device=generator.device)
    exponential = exponential.exponential_(generator=generator).to(scores.device)
    if noise == "gumbel":  # -ln of an exponential variable
        scores = scores.log() - exponential.log() / beta
    else:  # exp of one
        scores = scores.clamp_min(1e-9).log() + exponential.exp() / beta
    scores = scores.float()
    return scores.numpy() if isinstance(information, np.ndarray) else scores


def _check_noise(generator: Any, beta: Any, noise: Any) -> float:
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"`generator` must be a torch.Generator, got {generator!r}")
    beta = as_float(beta, "beta")
    if not (math.isfinite(beta) and beta > 0):
        raise ValueError(f"`beta` must be finite and above 0, got {beta}")
    as_choice(noise, "noise", ("gumbel", "pareto"))
    return beta


def _prepare(samples: Any, *, generator: Any, beta: Any = 1.0, noise: Any = "gumbel", **options: Any) -> Problem:
    _check_noise(generator, beta, noise)
    return prepare(samples, outputs=("bald",), **options)


Op("power_bald", _prepare, BACKENDS)

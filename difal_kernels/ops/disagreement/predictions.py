"""Scores of one prediction per position."""

from __future__ import annotations

from functools import partial
from typing import Any

from ..._dispatch import Op
from ..._settings import on_cpu_by_default
from .fused import BACKENDS, evaluate
from .problem import prepare

NAMES = ("entropy", "margin", "least_confidence")


@on_cpu_by_default
def _score(
    name: str,
    predictions: Any,
    input: str,
    sample_dim: int | None,
    class_dim: int,
    check_finite: bool,
    backend: str,
) -> Any:
    problem = Op.registry[name].prepare(
        predictions, input=input, sample_dim=sample_dim, class_dim=class_dim, check_finite=check_finite
    )
    return evaluate(name, backend, problem, predictions, "predictions")[name]


def entropy(
    predictions: Any,
    *,
    input: str = "logits",
    sample_dim: int | None = None,
    class_dim: int = -1,
    check_finite: bool = True,
    backend: str = "auto",
) -> Any:
    """Compute the Shannon entropy of predictions.

        H(p) = -sum_c p_c ln p_c,  0 ln 0 = 0

    Args:
        predictions: one prediction per position, torch.Tensor or numpy.ndarray of a float type, (..., C)
            unless `class_dim` says otherwise; with `sample_dim` given K of them, whose mean is scored.
        input, sample_dim, class_dim, check_finite, backend: as in `disagreement`.

    Returns:
        float32 array of the shape of the positions, in nats, in [0, ln C];
        of the library and on the device of the input.

    Raises:
        TypeError, ValueError, BackendUnavailableError: as in `disagreement`.

    Example:
        >>> import torch
        >>> from difal_kernels import entropy
        >>> entropy(torch.zeros(2, 4))  # two positions, four equally likely classes: ln 4
        tensor([1.3863, 1.3863])
    """
    return _score("entropy", predictions, input, sample_dim, class_dim, check_finite, backend)


def margin(
    predictions: Any,
    *,
    input: str = "logits",
    sample_dim: int | None = None,
    class_dim: int = -1,
    check_finite: bool = True,
    backend: str = "auto",
) -> Any:
    """Compute how close the two most probable classes are.

        1 - (p_(1) - p_(2)),  p_(1) >= p_(2) the two largest; with one class p_(2) = 0

    Larger is more uncertain, as everywhere in this family; much code calls p_(1) - p_(2) the margin
    and picks the smallest.

    Args:
        predictions: one prediction per position, torch.Tensor or numpy.ndarray of a float type, (..., C)
            unless `class_dim` says otherwise; with `sample_dim` given K of them, whose mean is scored.
        input, sample_dim, class_dim, check_finite, backend: as in `disagreement`.

    Returns:
        float32 array of the shape of the positions, in [0, 1];
        of the library and on the device of the input.

    Raises:
        TypeError, ValueError, BackendUnavailableError: as in `disagreement`.

    Example:
        >>> import numpy as np
        >>> from difal_kernels import margin
        >>> margin(np.array([0.5, 0.3, 0.2]), input="probs")
        array(0.8, dtype=float32)
    """
    return _score("margin", predictions, input, sample_dim, class_dim, check_finite, backend)


def least_confidence(
    predictions: Any,
    *,
    input: str = "logits",
    sample_dim: int | None = None,
    class_dim: int = -1,
    check_finite: bool = True,
    backend: str = "auto",
) -> Any:
    """Compute how far the most probable class is from certain.

        1 - max_c p_c

    Args:
        predictions: one prediction per position, torch.Tensor or numpy.ndarray of a float type, (..., C)
            unless `class_dim` says otherwise; with `sample_dim` given K of them, whose mean is scored.
        input, sample_dim, class_dim, check_finite, backend: as in `disagreement`.

    Returns:
        float32 array of the shape of the positions, in [0, 1 - 1/C];
        of the library and on the device of the input.

    Raises:
        TypeError, ValueError, BackendUnavailableError: as in `disagreement`.

    Example:
        >>> import numpy as np
        >>> from difal_kernels import least_confidence
        >>> least_confidence(np.array([[0.5, 0.25, 0.25]]), input="probs")
        array([0.5], dtype=float32)
    """
    return _score("least_confidence", predictions, input, sample_dim, class_dim, check_finite, backend)


for _name in NAMES:
    Op(_name, partial(prepare, outputs=(_name,), sample_dim=None, name="predictions"), BACKENDS)

"""Kernels of diffusion-driven active learning: what to label next, exactly and fast."""

from ._dispatch import BackendUnavailableError, available_backends, explain
from ._version import __version__
from .ops.disagreement import (
    bald,
    balentacq,
    dald,
    disagreement,
    edald,
    entropy,
    entropy_bald,
    least_confidence,
    margin,
    mutual_information,
    power_bald,
    variation_ratio,
)

__all__ = [
    "BackendUnavailableError",
    "__version__",
    "available_backends",
    "bald",
    "balentacq",
    "dald",
    "disagreement",
    "edald",
    "entropy",
    "entropy_bald",
    "explain",
    "least_confidence",
    "margin",
    "mutual_information",
    "power_bald",
    "variation_ratio",
]

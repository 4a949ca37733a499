"""Kernels of diffusion-driven active learning: exact selection, disagreement, pixel features."""

from difal_kernels._dispatch import BackendUnavailableError, available_backends, explain
from difal_kernels._version import __version__
from difal_kernels.ops.hypercolumns import hypercolumns
from difal_kernels.ops.projection import project_then_resize

__all__ = [
    "BackendUnavailableError",
    "__version__",
    "available_backends",
    "explain",
    "hypercolumns",
    "project_then_resize",
]

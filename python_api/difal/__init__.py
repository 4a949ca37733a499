"""Active learning for semantic segmentation: which pixels to label, round after round.

The loop is `difal.run.loop.run`, the command line `difal`. Images come from `difal.data`, features from
`difal.encoders`, the selection from `difal_kernels` by way of `difal.acquisition`.

References:
    Kim et al., "Diffusion-Driven Two-Stage Active Learning for Low-Budget Semantic Segmentation",
    NeurIPS 2025, arXiv 2510.22229.
"""

from difal.earlier_names import install
from difal_kernels._version import __version__

install()

__all__ = ["__version__"]

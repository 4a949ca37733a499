"""Active learning for semantic segmentation: which pixels to label, round after round.

The loop is `difal.run.loop.run`, the command line `difal`. Images come from `difal.data`, features from
`difal.encoders`, the selection from `difal_kernels` by way of `difal.acquisition`.

References:
    Kim et al., "Diffusion-Driven Two-Stage Active Learning for Low-Budget Semantic Segmentation",
    NeurIPS 2025, arXiv 2510.22229.
"""

from difal.earlier_names import install

install()


def __getattr__(name: str) -> str:
    if name != "__version__":
        raise AttributeError(f"module 'difal' has no attribute {name!r}")
    from difal_kernels._version import __version__  # torch comes with it, which the command does not start with

    return __version__

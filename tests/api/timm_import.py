"""Import timm where torchvision's compiled operators do not load: those of PyPI's wheel need torch with CUDA.

timm imports torchvision's Python part, which declares what two of the operators return and fails where they are absent.
Declared here, they can be imported; nothing in these tests calls them.
"""

import contextlib

import pytest
import torch

_library = torch.library.Library("torchvision", "FRAGMENT")


def import_timm():
    """The package timm; skips the test where it is not installed."""
    try:
        import torchvision  # noqa: F401
    except ImportError:
        pytest.skip("pip install timm")
    except RuntimeError:
        for name in ("nms", "qnms"):
            with contextlib.suppress(RuntimeError):
                _library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return pytest.importorskip("timm", reason="pip install timm")

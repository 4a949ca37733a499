"""Encoders: images to feature maps, of which hypercolumns are read. Adding one is adding a file, which registers it."""

import importlib
import pkgutil

from difal.encoders.base import BaseEncoder, Encoder
from difal.encoders.clean import CleanEncoder
from difal.encoders.diffusion import DiffusionEncoder
from difal.encoders.efficientnet_lite import EfficientNetLiteEncoder
from difal.encoders.guided_diffusion import load_guided_diffusion
from difal.encoders.latent import LatentDiffusionEncoder
from difal.encoders.loading import encoder_names, load_encoder
from difal.encoders.timm_network import TimmEncoder
from difal.encoders.vision import VisionEncoder

for _module in pkgutil.iter_modules(__path__):
    if not _module.name.startswith("train"):  # programs
        importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "BaseEncoder",
    "CleanEncoder",
    "DiffusionEncoder",
    "EfficientNetLiteEncoder",
    "Encoder",
    "LatentDiffusionEncoder",
    "TimmEncoder",
    "VisionEncoder",
    "encoder_names",
    "load_encoder",
    "load_guided_diffusion",
]

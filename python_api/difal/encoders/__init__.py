"""Encoders: images to feature maps, of which hypercolumns are read."""

from difal.encoders.base import BaseEncoder, Encoder
from difal.encoders.diffusion import DiffusionEncoder
from difal.encoders.guided_diffusion import load_guided_diffusion
from difal.encoders.latent import LatentDiffusionEncoder
from difal.encoders.loading import load_encoder
from difal.encoders.vision import VisionEncoder

__all__ = [
    "BaseEncoder",
    "DiffusionEncoder",
    "Encoder",
    "LatentDiffusionEncoder",
    "VisionEncoder",
    "load_encoder",
    "load_guided_diffusion",
]

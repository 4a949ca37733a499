"""Encoders: images to feature maps, of which hypercolumns are read."""

from difal.encoders.base import BaseEncoder, Encoder
from difal.encoders.diffusion import DiffusionEncoder
from difal.encoders.loading import load_encoder

__all__ = ["BaseEncoder", "DiffusionEncoder", "Encoder", "load_encoder"]

"""Training a diffusion encoder of one's own on unlabeled images."""

from difal.encoders.training.networks import SCRATCH, SIZES, new_encoder
from difal.encoders.training.trainer import Trained, train_encoder

__all__ = ["SCRATCH", "SIZES", "Trained", "new_encoder", "train_encoder"]

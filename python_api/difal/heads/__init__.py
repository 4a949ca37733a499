"""Heads: per-pixel classifiers on features, trained from scratch every round."""

from difal.heads.mlp import Head, drop, train_head

__all__ = ["Head", "drop", "train_head"]

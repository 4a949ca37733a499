"""How uncertain predictions are, and how much K of them disagree: entropy, BALD, DALD, eDALD and relatives.

Shape letters: K samples (forward passes), C classes; every other dimension is a *position* (a pixel, an
example). The answer has the shape of the positions, is float32, in nats where it is an information, and larger
means more uncertain. Nothing here is differentiable.

Arguments that all functions share:

    input         "logits" (default), "log_probs" or "probs": what the numbers are. Never guessed.
                  Probabilities that do not sum to one raise (off by more than 1e-3; float16 1e-2, bfloat16
                  5e-2); less than that is divided out.
    sample_dim    the dimension of the K samples. Any strides; the input is never copied or permuted.
    class_dim     the dimension of the C classes.
    check_finite  True: NaN, +inf and predictions of -inf alone raise. False: such a prediction gives NaN at
                  its position, in the scores that use it, and nowhere else. A logit of -inf among others is
                  a class of probability 0 and always allowed.
    backend       "auto", "reference" (float64 torch, any device), "cpu" (C++), "triton" or "cuda", each one read of
                  the input.

References:
    Houlsby et al. (2011), "Bayesian Active Learning for Classification and Preference Learning",
    arXiv 1112.5745.
    Kim et al. (2025), "Diffusion-Driven Two-Stage Active Learning for Low-Budget Semantic Segmentation",
    arXiv 2510.22229.
"""

from .fused import disagreement
from .power import power_bald
from .predictions import entropy, least_confidence, margin
from .scores import bald, balentacq, dald, edald, entropy_bald, mutual_information, variation_ratio

__all__ = [
    "bald",
    "balentacq",
    "dald",
    "disagreement",
    "edald",
    "entropy",
    "entropy_bald",
    "least_confidence",
    "margin",
    "mutual_information",
    "power_bald",
    "variation_ratio",
]

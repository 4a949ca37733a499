"""Selection kernels for active learning: exact, fast, and the same picks on every backend.

>>> import numpy as np
>>> from difal_kernels import maxherding
>>> features = np.random.default_rng(0).normal(size=(1000, 16))
>>> picks = maxherding(features, budget=10)  # the ten points that cover the pool best, best first
>>> picks.shape
(10,)
"""

from ._dispatch import BackendUnavailableError, available_backends, explain
from ._version import __version__
from .curve import CoverageCurve, coverage_curve
from .ops.disagreement import (
    bald,
    balentacq,
    dald,
    disagreement,
    edald,
    entropy,
    entropy_bald,
    least_confidence,
    margin,
    mutual_information,
    power_bald,
    variation_ratio,
)
from .ops.hypercolumns import hypercolumns
from .ops.kcenter_greedy import Centers, kcenter_greedy
from .ops.maxherding import MaxHerding, SampledCoverage, Selection, maxherding
from .ops.probcover import probcover
from .ops.projection import project_then_resize
from .ops.typiclust import Typical, typiclust
from .ops.uherding import uherding

__all__ = [
    "BackendUnavailableError",
    "Centers",
    "CoverageCurve",
    "MaxHerding",
    "SampledCoverage",
    "Selection",
    "Typical",
    "__version__",
    "available_backends",
    "bald",
    "balentacq",
    "coverage_curve",
    "dald",
    "disagreement",
    "edald",
    "entropy",
    "entropy_bald",
    "explain",
    "hypercolumns",
    "kcenter_greedy",
    "least_confidence",
    "margin",
    "maxherding",
    "mutual_information",
    "power_bald",
    "probcover",
    "project_then_resize",
    "typiclust",
    "uherding",
    "variation_ratio",
]

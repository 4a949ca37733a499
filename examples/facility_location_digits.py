"""Facility location as an estimator: handwritten digits in a pipeline. `python examples/facility_location_digits.py`"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from difal.adapters.facility_location import FacilityLocationSelection

X, y = load_digits(return_X_y=True)
train, test = slice(0, 1300), slice(1300, None)

selector = FacilityLocationSelection(100, metric="cosine").fit(X[train])
subset, labels = selector.transform(X[train], y[train])
model = LogisticRegression(max_iter=5000).fit(subset, labels)
share = np.cumsum(selector.gains) / 1300
print(f"the first 10 rows represent {share[9]:.1%} of the whole, 100 rows {share[-1]:.1%}")
print(f"accuracy of a model fitted to those 100 rows: {model.score(X[test], y[test]):.3f}")

random = np.random.default_rng(0).choice(1300, 100, replace=False)
model = LogisticRegression(max_iter=5000).fit(X[random], y[random])
print(f"and to 100 random rows: {model.score(X[test], y[test]):.3f}")

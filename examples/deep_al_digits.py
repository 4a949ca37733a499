"""The deep-al samplers on handwritten digits, outside of those codebases. `python examples/deep_al_digits.py`"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from difal.adapters.deep_al import MaxHerding, ProbCover

X, y = load_digits(return_X_y=True)
features = X / np.linalg.norm(X, axis=1, keepdims=True)
test = np.arange(1300, len(X))

for make, options in ((MaxHerding, {}), (ProbCover, {"delta": 0.45})):
    lSet, uSet = np.array([], dtype=int), np.arange(1300)
    for _ in range(4):
        sampler = make(None, lSet, uSet, 10, features=features, **options)
        activeSet, uSet = sampler.select_samples()
        lSet = np.concatenate([lSet, activeSet])
    accuracy = KNeighborsClassifier(1).fit(features[lSet], y[lSet]).score(features[test], y[test])
    print(f"{make.__name__:10} {len(lSet)} labels, accuracy of the nearest neighbor {accuracy:.3f}")

"""modAL: label handwritten digits by coverage, ten at a time. `python examples/modal_digits.py`"""

import numpy as np
from modAL.models import ActiveLearner
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split

from difal.adapters.modal import maxherding_sampling, uherding_sampling

X, y = load_digits(return_X_y=True)
X, X_test, y, y_test = train_test_split(X / 16, y, test_size=500, random_state=0, stratify=y)

for strategy in (maxherding_sampling, uherding_sampling):
    labeled = np.arange(10)
    for _ in range(5):
        # A new learner each round: modAL 0.4.2's own teach() fails with scikit-learn 1.8 and later.
        forest = RandomForestClassifier(random_state=0)
        learner = ActiveLearner(forest, strategy, X_training=X[labeled], y_training=y[labeled])
        rest = np.setdiff1d(np.arange(len(X)), labeled)
        picks, _ = learner.query(X[rest], n_instances=10)
        labeled = np.concatenate([labeled, rest[picks]])
    accuracy = forest.fit(X[labeled], y[labeled]).score(X_test, y_test)
    print(f"{strategy.__name__:20} {len(labeled)} labels, accuracy {accuracy:.3f}")

"""scikit-activeml: label handwritten digits by coverage, ten at a time. `python examples/scikit_activeml_digits.py`"""

import numpy as np
from skactiveml.classifier import ParzenWindowClassifier
from skactiveml.pool import RandomSampling
from skactiveml.utils import MISSING_LABEL, call_func
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from difal.adapters.scikit_activeml import MaxHerdingQuery, UHerdingQuery

X, y_true = load_digits(return_X_y=True)
X, X_test, y_true, y_test = train_test_split(X / 16, y_true, test_size=500, random_state=0, stratify=y_true)

for strategy in (MaxHerdingQuery(), UHerdingQuery(), RandomSampling(random_state=0)):
    y = np.full(len(X), MISSING_LABEL)
    clf = ParzenWindowClassifier(classes=range(10), metric_dict={"gamma": 1.0}, random_state=0)
    scores = []
    for _ in range(5):
        picks = call_func(strategy.query, X=X, y=y, clf=clf, batch_size=10)
        y[picks] = y_true[picks]
        scores.append(clf.fit(X, y).score(X_test, y_test))
    print(f"{type(strategy).__name__:16} accuracy after 10, 20, ... labels:", " ".join(f"{s:.3f}" for s in scores))

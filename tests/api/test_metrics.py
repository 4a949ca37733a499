"""Confusion matrices and mIoU against scikit-learn and plain counting."""

import numpy as np
import pytest
from sklearn import metrics as sk

from difal.metrics import class_iou, confusion_matrix, mean_iou, summary


def test_against_scikit_learn():
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 4, (2, 30, 40))
    truth[rng.random(truth.shape) < 0.2] = 255
    seen = truth != 255
    ours = confusion_matrix(truth, predicted, 5)
    assert np.array_equal(ours, sk.confusion_matrix(truth[seen], predicted[seen], labels=range(5)))
    wanted = sk.jaccard_score(truth[seen], predicted[seen], labels=range(4), average=None)
    assert class_iou(ours)[:4] == pytest.approx(wanted)
    assert np.isnan(class_iou(ours)[4])
    assert mean_iou(ours) == pytest.approx(wanted.mean())
    assert mean_iou(ours, "released") == pytest.approx(wanted.sum() / 5)


def test_a_class_predicted_but_never_true_counts_as_zero_in_both():
    counts = np.array([[3, 1], [0, 0]])
    assert mean_iou(counts) == mean_iou(counts, "released") == pytest.approx(0.375)


def test_nothing_to_count():
    empty = confusion_matrix(np.full(5, 255), np.zeros(5), 3)
    assert summary(empty)["miou"] == {"standard": 0.0, "released": 0.0}
    assert summary(empty)["class_iou"] == [None] * 3


def test_wrong_input():
    with pytest.raises(ValueError, match="one shape"):
        confusion_matrix(np.zeros(3), np.zeros(4), 2)
    with pytest.raises(ValueError, match="`truth` must hold ids 0 to 1, got 0 to 2"):
        confusion_matrix(np.array([0, 2]), np.zeros(2), 2)
    with pytest.raises(ValueError, match="`predicted` must hold"):
        confusion_matrix(np.zeros(2), np.array([0, 9]), 2)
    with pytest.raises(ValueError, match="`policy` must be one of 'standard', 'released', got 'mean'"):
        mean_iou(np.eye(2), "mean")

"""Confusion matrix and intersection over union, with the two ways to treat a class that is absent."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

POLICIES = {
    "standard": "mean over the classes that appear in the truth or in the prediction",
    "released": "mean over all classes, an absent one counted as 0, as the paper's released code does",
}


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray, classes: int, ignore: int = 255) -> np.ndarray:
    """Count pixels by true class (rows) and predicted class (columns), leaving out `ignore`.

    Args:
        truth: integer array of any shape, ids below `classes`, or `ignore`.
        predicted: integer array of the same shape, ids below `classes`.
        classes: number of classes C.
        ignore: the id of pixels without a class.

    Returns:
        (C, C) int64.

    Raises:
        ValueError: shapes differ, or an id is outside its range.

    Example:
        >>> confusion_matrix(np.array([0, 0, 1, 255]), np.array([0, 1, 1, 0]), 2)
        array([[1, 1],
               [0, 1]])
    """
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if truth.shape != predicted.shape:
        raise ValueError(f"`truth` and `predicted` must have one shape, got {truth.shape} and {predicted.shape}")
    kept = truth != ignore
    rows, columns = truth[kept].astype(np.int64), predicted[kept].astype(np.int64)
    for name, ids in (("truth", rows), ("predicted", columns)):
        if ids.size and (ids.min() < 0 or ids.max() >= classes):
            raise ValueError(f"`{name}` must hold ids 0 to {classes - 1}, got {ids.min()} to {ids.max()}")
    return np.bincount(rows * classes + columns, minlength=classes * classes).reshape(classes, classes)


def merge_classes(confusion: np.ndarray, merged: Mapping[int, int]) -> np.ndarray:
    """Count the pixels of some classes, true and predicted, as another class's.

    Args:
        confusion: (C, C) counts, rows true.
        merged: for each class that is no longer told apart, the one that it is now part of.

    Returns:
        (C, C); the rows and columns of the merged classes are 0.

    Example:
        >>> merge_classes(np.array([[3, 1, 0], [0, 4, 2], [5, 0, 6]]), {2: 0})
        array([[14,  1,  0],
               [ 2,  4,  0],
               [ 0,  0,  0]])
    """
    target = [merged.get(i, i) for i in range(len(confusion))]
    found = np.zeros_like(confusion)
    np.add.at(found, np.ix_(target, target), confusion)
    return found


def class_iou(confusion: np.ndarray) -> np.ndarray:
    """IoU_c = TP_c / (TP_c + FP_c + FN_c), NaN for a class with no true and no predicted pixel.

    Args:
        confusion: (C, C) counts, rows true.

    Returns:
        (C,) float64.
    """
    confusion = np.asarray(confusion, dtype=np.float64)
    hits = np.diag(confusion)
    union = confusion.sum(0) + confusion.sum(1) - hits
    return np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)


def mean_iou(confusion: np.ndarray, policy: str = "standard") -> float:
    """Average the class IoUs under a named policy (see `POLICIES`).

    Example:
        >>> counts = np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
        >>> round(mean_iou(counts), 4), round(mean_iou(counts, "released"), 4)
        (0.775, 0.5167)
    """
    if policy not in POLICIES:
        raise ValueError(f"`policy` must be one of {', '.join(map(repr, POLICIES))}, got {policy!r}")
    ious = class_iou(confusion)
    present = ~np.isnan(ious)
    if policy == "released":
        return float(np.where(present, ious, 0.0).mean()) if len(ious) else 0.0
    return float(ious[present].mean()) if present.any() else 0.0


def summary(confusion: np.ndarray) -> dict:
    """Everything the run_dir keeps of one evaluation, JSON-ready; absent classes are None."""
    total = int(confusion.sum())
    return {
        "miou": {policy: mean_iou(confusion, policy) for policy in POLICIES},
        "pixel_accuracy": float(np.trace(confusion)) / total if total else 0.0,
        "class_iou": [None if np.isnan(v) else float(v) for v in class_iou(confusion)],
        "confusion": confusion.tolist(),
    }

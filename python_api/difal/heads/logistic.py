"""Class-balanced multinomial logistic regression, to the optimum."""

from __future__ import annotations

import numpy as np
import torch

STEPS = 1000
SETTLED = 1e-6  # largest gradient at which the optimum counts as found, of a loss summed over the labels


def balanced_logistic(
    rows: torch.Tensor, targets: torch.Tensor, classes: int, penalty: float
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Fit a linear layer whose softmax is the probability of the class.

    Minimises the convex

        sum_i w(y_i) cross_entropy(W x_i + b, y_i) + penalty / 2 |W|_F^2,

    where the weights w(c) = n / (C n_c) let every class count alike, however many of the n labels it has. The bias is
    free. L-BFGS in float64 from zero. The optimum lies in the span of the rows, so that where there are fewer rows than
    columns it is sought there, in n numbers a class in place of D.

    Args:
        rows: (n, D) float64, standardised: the penalty treats all columns alike.
        targets: (n,) class ids, every one of 0 to classes - 1 at least once.
        classes: number of classes C.
        penalty: at least 0; small data sets want a large one.

    Returns:
        Weight (C, D) and bias (C,), float64.
    """
    basis = None
    if len(rows) < rows.shape[1]:
        basis, coordinates = torch.linalg.qr(rows.T)  # (D, n) orthonormal: lengths, and so the penalty, stay
        rows = coordinates.T.contiguous()
    counts = torch.bincount(targets, minlength=classes)
    balance = (len(targets) / (classes * counts.double()))[targets]
    weight = torch.zeros(classes, rows.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=STEPS,
        tolerance_grad=SETTLED,
        tolerance_change=1e-12,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        wrong = torch.nn.functional.cross_entropy(rows @ weight.T + bias, targets, reduction="none")
        value = (balance * wrong).sum() + penalty / 2 * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    found = weight.detach()
    return found if basis is None else found @ basis.T, bias.detach()


def moments(context: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation (D,) of `context`, or of `rows` where it has less than two; no deviation is 0."""
    basis = context if len(context) > 1 else rows
    mean = basis.mean(0)
    deviation = basis.std(0, correction=0) if len(basis) > 1 else torch.ones_like(mean)
    floor = 1e-3 * deviation.mean()  # a column that hardly varies says nothing, and dividing by it would make it loud
    return mean, torch.where(deviation > floor, deviation, deviation.new_tensor(torch.inf))


def standardised_logistic(
    features: np.ndarray, targets: torch.Tensor, context: np.ndarray, classes: int, penalty: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`balanced_logistic` on features standardised by `context`, with the scaling folded into the layer.

    Args:
        features: (n, D) labeled features of any float type.
        targets: (n,) class ids, every one of 0 to classes - 1 at least once.
        context: (m, D) random unlabeled features.
        classes, penalty: as for `balanced_logistic`.

    Returns:
        Weight (C, D) and bias (C,), float64, of the features as they are.
    """
    rows, basis = (torch.from_numpy(np.asarray(part, np.float64)) for part in (features, context))
    mean, deviation = moments(basis, rows)
    with torch.enable_grad():
        weight, bias = balanced_logistic((rows - mean) / deviation, targets, classes, penalty)
    weight = weight / deviation
    return weight, bias - weight @ mean

"""Several scores in one read of the input."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from ..._checks import back_converter
from ..._dispatch import Op
from ..._settings import on_cpu_by_default
from . import cpu, cuda, reference, triton
from .problem import OUTPUTS, Problem, prepare, raise_invalid

BACKENDS = {"reference": reference, "cpu": cpu, "triton": triton, "cuda": cuda}
DEFAULT_OUTPUTS = ("entropy", "bald")


def evaluate(op: str, backend: str, problem: Problem, like: Any, name: str = "samples") -> dict[str, Any]:
    """The scores of a problem by score name, in the library of `like`; `name` is what the caller calls it."""
    scores, first_bad = Op.registry[op].run(backend, problem)
    if first_bad >= 0:
        raise_invalid(problem, first_bad, name)
    back = back_converter(like)
    return {score: back(value) for score, value in scores.items()}


@on_cpu_by_default
def disagreement(
    samples: Any,
    single: Any = None,
    *,
    outputs: Sequence[str] = DEFAULT_OUTPUTS,
    weight: float = 1.0,
    input: str = "logits",
    sample_dim: int = -2,
    class_dim: int = -1,
    check_finite: bool = True,
    backend: str = "auto",
) -> dict[str, Any]:
    """Compute several scores of K predictions per position in one read of the input.

    With p_k the probabilities of sample k, m = mean_k p_k, and q those of `single`, or m without one:

        entropy             H(q) = -sum_c q_c ln q_c
        bald                H(m) - mean_k H(p_k), in [0, ln min(C, K)]; also under the names
                            mutual_information and dald
        expected_entropy    mean_k H(p_k)
        edald               H(q) + weight * bald, needs `single`
        entropy_bald        the same, with or without `single`
        margin              1 - (largest of q - second largest)
        least_confidence    1 - largest of q
        variation_ratio     the share of samples whose most probable class is not the most voted one
        balentacq           see `balentacq`

    Args:
        samples: predictions of K samples, torch.Tensor or numpy.ndarray of float16, bfloat16, float32 or
            float64, for example (K, C, H, W) with sample_dim=0, class_dim=1.
        single: one prediction per position, of the shape of `samples` without `sample_dim`; None for the mean m.
        outputs: names from the list above.
        weight: of bald in edald and entropy_bald, at least 0.
        input, sample_dim, class_dim, check_finite, backend: see the head of `difal_kernels.ops.disagreement`.

    Returns:
        A dict from output name to a float32 array of the shape of the positions, in the order of `outputs`, of
        the library and on the device of `samples`.

    Raises:
        TypeError: an argument of the wrong kind or dtype.
        ValueError: unknown names; shapes or dimensions that do not fit; no sample or class; a negative
            weight; non-finite input (unless check_finite=False); probabilities that are negative or do not
            sum to one.
        BackendUnavailableError: the backend named cannot run this.

    Notes:
        0 ln 0 = 0 without an epsilon. Agrees with float64 to 1e-6 absolute, whatever the input's dtype; on a GPU
        edald and entropy_bald of a weight w above 1 to (1 + w) 1e-6. The work is O(positions K C), the workspace of
        "cpu" at most a megabyte per thread up to C = 2048. The number of threads (torch.get_num_threads()) does not
        change the answer.

    Example:
        >>> import torch
        >>> from difal_kernels import disagreement
        >>> votes = torch.tensor([[40.0, 0.0], [0.0, 40.0]])  # two samples, sure of different classes
        >>> scores = disagreement(votes, outputs=("entropy", "bald", "expected_entropy"))
        >>> {name: round(float(score), 4) for name, score in scores.items()}
        {'entropy': 0.6931, 'bald': 0.6931, 'expected_entropy': 0.0}
    """
    problem = prepare(
        samples,
        single,
        outputs=outputs,
        weight=weight,
        input=input,
        sample_dim=sample_dim,
        class_dim=class_dim,
        check_finite=check_finite,
    )
    scores = evaluate("disagreement", backend, problem, samples)
    return {output: scores[OUTPUTS[output]] for output in outputs}


Op("disagreement", partial(prepare, outputs=DEFAULT_OUTPUTS), BACKENDS)

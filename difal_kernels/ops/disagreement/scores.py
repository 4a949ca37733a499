"""Scores of K samples per position, one each."""

from __future__ import annotations

from functools import partial
from typing import Any

from ..._dispatch import Op
from ..._settings import on_cpu_by_default
from .fused import BACKENDS, evaluate
from .problem import prepare

NAMES = ("bald", "edald", "entropy_bald", "variation_ratio", "balentacq")


@on_cpu_by_default
def score(
    name: str,
    samples: Any,
    input: str,
    sample_dim: int,
    class_dim: int,
    check_finite: bool,
    backend: str,
    single: Any = None,
    **options: Any,
) -> Any:
    """The output `name` alone."""
    problem = Op.registry[name].prepare(
        samples,
        single,
        input=input,
        sample_dim=sample_dim,
        class_dim=class_dim,
        check_finite=check_finite,
        **options,
    )
    (value,) = evaluate(name, backend, problem, samples).values()
    return value


def bald(
    samples: Any,
    *,
    input: str = "logits",
    sample_dim: int = -2,
    class_dim: int = -1,
    check_finite: bool = True,
    backend: str = "auto",
) -> Any:
    """Compute BALD: the mutual information between a position's label and the model that was sampled.

        bald = H(mean_k p_k) - mean_k H(p_k)

    High where each sample is sure of a class and they are not sure of the same one. `mutual_information`
    is the same function, and so is `dald`, its name where the samples differ in the diffusion noise.

    Args:
        samples: predictions of K samples per position, torch.Tensor or numpy.ndarray of a float type,
            (..., K, C) unless `sample_dim` and `class_dim` say otherwise.
        input, sample_dim, class_dim, check_finite, backend: as in `disagreement`.

    Returns:
        float32 array of the shape of the positions, in nats, in [0, ln min(C, K)];
        of the library and on the device of the input.

    Raises:
        TypeError, ValueError, BackendUnavailableError: as in `disagreement`.

    References:
        Houlsby et al. (2011), arXiv 1112.5745, equation 2; Gal et al. (2017), arXiv 1703.02910; DALD: Kim
        et al. (2025), arXiv 2510.22229.

    Example:
        >>> import torch
        >>> from difal_kernels import bald
        >>> dropout = torch.randn(5, 19, 8, 8, generator=torch.Generator().manual_seed(0))  # K, C, H, W
        >>> bald(dropout, sample_dim=0, class_dim=1).shape
        torch.Size([8, 8])
    """
    return score("bald", samples, input, sample_dim, class_dim, check_finite, backend)


mutual_information = dald = bald


def edald(
    samples: Any,
    single: Any,
    *,
    weight: float = 1.0,
    compat: str | None = None,
    input: str = "logits",
    sample_dim: int = -2,
    class_dim: int = -1,
    check_finite: bool = True,
    backend: str = "auto",
) -> Any:
    """Compute eDALD: the entropy of one prediction plus the disagreement of K.

        edald = H(q) + weight * (H(mean_k p_k) - mean_k H(p_k))

    with q the softmax of `single`, one forward pass under the fixed noise, and p_k that of K passes that
    differ in the noise.

    Args:
        samples: predictions of K samples per position, torch.Tensor or numpy.ndarray of a float type,
            (..., K, C) unless `sample_dim` and `class_dim` say otherwise.
        single: one prediction per position, of the shape of `samples` without `sample_dim`.
        weight: of the disagreement, at least 0; 1 in the paper.
        compat: None, or "released" for the number that the paper's released code computes: it hands
            probabilities to a function that expects their logarithms, so that its second term is the
            "mutual information" of exp(p), which sums to no one, with 1e-8 inside each logarithm. It
            ranks positions otherwise (of the formula's first 20 of 2,000 it finds 14): use it to trace
            published numbers and for nothing else. Not on a GPU, but by the reference.
        input, sample_dim, class_dim, check_finite, backend: as in `disagreement`.

    Returns:
        float32 array of the shape of the positions, in nats;
        of the library and on the device of the input.

    Raises:
        TypeError, ValueError, BackendUnavailableError: as in `disagreement`.

    References:
        Kim et al. (2025), arXiv 2510.22229.

    Example:
        >>> import torch
        >>> from difal_kernels import edald
        >>> sure = torch.tensor([[40.0, 0.0], [0.0, 40.0]])  # two samples that contradict each other
        >>> edald(sure, torch.zeros(2))  # ln 2 + ln 2
        tensor(1.3863)
    """
    return score(
        "edald",
        samples,
        input,
        sample_dim,
        class_dim,
        check_finite,
        backend,
        single,
        weight=weight,
        compat=compat,
    )


def entropy_bald(
    samples: Any,
    single: Any = None,
    *,
    weight: float = 1.0,
    input: str = "logits",
    sample_dim: int = -2,
    class_dim: int = -1,
    check_finite: bool = True,
    backend: str = "auto",
) -> Any:
    """Compute entropy plus BALD: eDALD's formula for any kind of sample.

        H(q) + weight * bald,  q the probabilities of `single`, or without one the mean of the samples'

    Args:
        samples: predictions of K samples per position, torch.Tensor or numpy.ndarray of a float type,
            (..., K, C) unless `sample_dim` and `class_dim` say otherwise.
        single: one prediction per position (with MC dropout: dropout off), of the shape of `samples` without
            `sample_dim`, or None.
        weight: of BALD, at least 0.
        input, sample_dim, class_dim, check_finite, backend: as in `disagreement`.

    Returns:
        float32 array of the shape of the positions, in nats;
        of the library and on the device of the input.

    Raises:
        TypeError, ValueError, BackendUnavailableError: as in `disagreement`.

    Example:
        >>> import torch
        >>> from difal_kernels import entropy_bald
        >>> entropy_bald(torch.tensor([[40.0, 0.0], [0.0, 40.0]]))
        tensor(1.3863)
    """
    return score("entropy_bald", samples, input, sample_dim, class_dim, check_finite, backend, single, weight=weight)


def variation_ratio(
    samples: Any,
    *,
    input: str = "logits",
    sample_dim: int = -2,
    class_dim: int = -1,
    check_finite: bool = True,
    backend: str = "auto",
) -> Any:
    """Compute the share of samples that vote against the most voted class.

        1 - max_c |{k : argmax p_k = c}| / K,  a tie within a sample going to the lowest class

    Args:
        samples: predictions of K samples per position, torch.Tensor or numpy.ndarray of a float type,
            (..., K, C) unless `sample_dim` and `class_dim` say otherwise.
        input, sample_dim, class_dim, check_finite, backend: as in `disagreement`.

    Returns:
        float32 array of the shape of the positions, in [0, 1 - 1/K];
        of the library and on the device of the input.

    Raises:
        TypeError, ValueError, BackendUnavailableError: as in `disagreement`.

    References:
        Freeman (1965), "Elementary Applied Statistics"; Gal et al. (2017), arXiv 1703.02910.

    Example:
        >>> import torch
        >>> from difal_kernels import variation_ratio
        >>> variation_ratio(torch.eye(3)[[0, 0, 0, 1]], input="probs")
        tensor(0.2500)
    """
    return score("variation_ratio", samples, input, sample_dim, class_dim, check_finite, backend)


def balentacq(
    samples: Any,
    *,
    input: str = "logits",
    sample_dim: int = -2,
    class_dim: int = -1,
    check_finite: bool = True,
    backend: str = "auto",
) -> Any:
    """Compute BalEntAcq: balanced entropy, turned so that larger is better.

        balent = (sum_c E[P_c] h(P_c+) + H(mean_k p_k)) / (H(mean_k p_k) + ln 2)
        balentacq = 1 / balent where balent >= 0, else balent

    P_c is class c's probability over the samples, taken to be Beta(alpha, beta) by its mean m and variance
    v: alpha + beta = m (1 - m) / v - 1 and alpha = m (alpha + beta). P_c+ is Beta(alpha + 1, beta), its
    posterior after one label of class c, and h the differential entropy.

    alpha + beta is kept in [1e-6, 1e8] and m in [1e-9, 1 - 1e-9], for h is -inf where there is no
    disagreement or nothing but. v is the variance of the K samples as they are (divided by K), so that
    alpha and beta are never negative; Woo's code divides by K - 1, which for few samples leaves the Beta
    family (v > m (1 - m)), and one version of it, since corrected, adds H(mean_k p_k) to the numerator of
    balent twice. The code released with arXiv 2510.22229 gives NaN everywhere, because its entropy takes
    the logarithm of log-probabilities. Not on a GPU, but by the reference.

    Agrees with float64 to 1e-6 (1 + |balentacq|), but for a balent within 1e-9 of 0, where the value jumps from
    inf to 0.

    Args:
        samples: predictions of K samples per position, torch.Tensor or numpy.ndarray of a float type,
            (..., K, C) unless `sample_dim` and `class_dim` say otherwise.
        input, sample_dim, class_dim, check_finite, backend: as in `disagreement`.

    Returns:
        float32 array of the shape of the positions, without unit;
        of the library and on the device of the input.

    Raises:
        TypeError, ValueError, BackendUnavailableError: as in `disagreement`.

    References:
        Woo (2023), "Active Learning in Bayesian Neural Networks with Balanced Entropy Learning
        Principle", ICLR.

    Example:
        >>> import torch
        >>> from difal_kernels import balentacq
        >>> samples = torch.randn(2, 20, 3, generator=torch.Generator().manual_seed(0))  # two positions, K = 20
        >>> balentacq(samples).shape
        torch.Size([2])
    """
    return score("balentacq", samples, input, sample_dim, class_dim, check_finite, backend)


for _name in NAMES:
    Op(_name, partial(prepare, outputs=(_name,)), BACKENDS)

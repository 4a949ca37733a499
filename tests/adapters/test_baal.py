import numpy as np
import pytest
import torch

pytest.importorskip("baal", reason="baal is not installed")

from baal.active import ActiveLearningDataset, ActiveLearningLoop
from baal.active.heuristics import BALD, AbstractHeuristic
from torch.utils.data import TensorDataset

from difal.adapters.baal import EDALD, MaxHerding
from difal_kernels import edald, maxherding

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def embeddings():
    rng = np.random.default_rng(0)
    return (rng.normal(size=(80, 6)) + 4 * rng.integers(0, 4, size=(80, 1))).astype(np.float32)


@pytest.mark.parametrize("form", ["array", "tensor", "gradient", "generator", "items", "iterations"])
def test_ranks_begin_with_the_picks(embeddings, form):
    given = {
        "array": lambda: embeddings,
        "tensor": lambda: torch.from_numpy(embeddings),
        "gradient": lambda: torch.from_numpy(embeddings).requires_grad_(),
        "items": lambda: [torch.from_numpy(row) for row in embeddings],
        "generator": lambda: (embeddings[i : i + 7] for i in range(0, 80, 7)),
        "iterations": lambda: np.stack([embeddings] * 4, axis=-1),
    }[form]()
    ranks, scores = MaxHerding(10).get_ranks(given)
    expected = maxherding(embeddings, 10, return_info=True)
    np.testing.assert_array_equal(ranks[:10], expected.indices)
    np.testing.assert_allclose(scores[ranks[:10]], expected.gains)
    np.testing.assert_array_equal(np.sort(ranks), np.arange(80))
    assert not scores[ranks[10:]].any()


def test_labeled_embeddings_condition_the_choice(embeddings):
    known = embeddings[:5]
    expected = maxherding(embeddings, 6, labeled=known, bandwidth=2.0)
    np.testing.assert_array_equal(MaxHerding(6, labeled=known, bandwidth=2.0)(embeddings)[:6], expected)
    np.testing.assert_array_equal(MaxHerding(6, labeled=lambda: known, bandwidth=2.0)(embeddings)[:6], expected)
    np.testing.assert_array_equal(MaxHerding(6, labeled=lambda: known[:0])(embeddings)[:6], maxherding(embeddings, 6))
    assert len(MaxHerding(1000)(embeddings)) == 80


def test_whole_numbers_half_precision_and_nothing(embeddings):
    counts = np.round(embeddings).astype(int)
    np.testing.assert_array_equal(MaxHerding(6)(counts)[:6], maxherding(counts.astype(float), 6))
    half = torch.from_numpy(embeddings).bfloat16()
    np.testing.assert_array_equal(MaxHerding(6)(half)[:6], maxherding(half, 6).numpy())
    with pytest.raises(ValueError, match="`predictions` must hold an embedding an item, got none"):
        MaxHerding(6)(iter([]))


def test_inside_the_librarys_loop(embeddings):
    """The loop labels what coverage asks, and the next round is conditioned on it."""
    dataset = ActiveLearningDataset(TensorDataset(torch.from_numpy(embeddings)))

    def embed(pool):
        return np.stack([item[0].numpy() for item in pool])

    def known():
        return embed([dataset[i] for i in range(len(dataset))]) if len(dataset) else embeddings[:0]

    loop = ActiveLearningLoop(dataset, embed, MaxHerding(5, labeled=known, bandwidth=3.0), query_size=5)
    assert loop.step()
    first = maxherding(embeddings, 5, bandwidth=3.0)
    assert set(np.flatnonzero(dataset.labelled)) == set(first)
    assert loop.step()
    rest = np.setdiff1d(np.arange(80), first)
    second = rest[maxherding(embeddings[rest], 5, labeled=embeddings[np.sort(first)], bandwidth=3.0)]
    assert set(np.flatnonzero(dataset.labelled)) == {*first, *second}


def test_edald_is_entropy_plus_baals_own_bald():
    logits = np.random.default_rng(1).normal(size=(30, 5, 6)) * 3
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    entropy = -(p[..., 0] * np.log(p[..., 0])).sum(1)
    disagreement = BALD().compute_score(p[..., 1:])
    heuristic = EDALD()
    assert isinstance(heuristic, AbstractHeuristic)
    np.testing.assert_allclose(heuristic.compute_score(logits), entropy + disagreement, atol=1e-6)
    np.testing.assert_allclose(EDALD(input="probs", weight=0.5).compute_score(p), entropy + disagreement / 2, atol=1e-6)
    ranks, scores = heuristic.get_ranks(torch.from_numpy(logits))
    batches = (logits[i : i + 8] for i in range(0, 30, 8))
    np.testing.assert_array_equal(heuristic.get_ranks(batches)[0], ranks)
    np.testing.assert_array_equal(heuristic.compute_score(torch.from_numpy(logits).requires_grad_()), scores)
    assert ranks[0] == np.argmax(entropy + disagreement)
    assert (np.diff(scores[ranks]) <= 0).all()


def test_edald_of_segmentations():
    logits = np.random.default_rng(2).normal(size=(3, 4, 6, 7, 5)).astype(np.float32)
    heuristic = EDALD(single=-1, reduction="mean")
    expected = edald(logits[..., :-1], logits[..., -1], sample_dim=-1, class_dim=1)
    np.testing.assert_array_equal(heuristic.compute_score(logits), expected)
    np.testing.assert_allclose(heuristic.get_uncertainties(logits), expected.mean((1, 2)), rtol=1e-6)


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 1)])
def test_edald_errors(shape):
    with pytest.raises(ValueError, match="`predictions` must be"):
        EDALD().compute_score(np.zeros(shape))
    with pytest.raises(ValueError, match="`single` must be one of the 5"):
        EDALD(single=5).compute_score(np.zeros((3, 4, 5)))

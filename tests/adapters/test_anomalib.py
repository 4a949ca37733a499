"""anomalib's names and signatures, and the picks of its own class where those are not of chance."""

import inspect

import pytest
import torch

from difal.adapters.anomalib import KCenterGreedy
from difal_kernels import kcenter_greedy
from kcenter_peers import anomalib_class

EMBEDDING = torch.randn(500, 24, generator=torch.Generator().manual_seed(0))


def theirs():
    try:
        return anomalib_class()
    except ImportError as error:
        pytest.skip(f"anomalib's sampling cannot be imported: {error}")


def test_the_selection_is_that_of_kcenter_greedy():
    sampler = KCenterGreedy(EMBEDDING, 0.1)
    assert sampler.coreset_size == 50
    assert sampler.radius is None
    picks = sampler.select_coreset_idxs()
    want = kcenter_greedy(EMBEDDING, 50, return_info=True)
    assert picks == want.indices.tolist()
    assert sampler.radius == want.radius
    assert torch.equal(sampler.sample_coreset(), EMBEDDING[picks])
    images = KCenterGreedy(EMBEDDING.reshape(500, 4, 6), 0.1)
    assert images.sample_coreset().shape == (50, 4, 6)
    assert images.select_coreset_idxs() == picks


def test_rows_selected_before():
    sampler = KCenterGreedy(EMBEDDING, 0.1)
    first = sampler.select_coreset_idxs()
    second = sampler.select_coreset_idxs(selected_idxs=first)
    assert first + second == KCenterGreedy(EMBEDDING, 0.2).select_coreset_idxs()
    assert sampler.select_coreset_idxs([]) == first


def test_wrong_arguments():
    with pytest.raises(TypeError, match=r"`embedding` must be a torch.Tensor of floating-point numbers, got list"):
        KCenterGreedy([[1.0]], 0.5)
    with pytest.raises(TypeError, match=r"got torch.int64"):
        KCenterGreedy(torch.ones(3, 2, dtype=torch.int64), 0.5)
    with pytest.raises(ValueError, match=r"`embedding` must have a row per patch"):
        KCenterGreedy(torch.ones(3), 0.5)
    for ratio in (0.0, -1.0, 1.1, float("nan"), 0.001):
        with pytest.raises(ValueError, match="`sampling_ratio` must be at most 1 and select a row or more of 500"):
            KCenterGreedy(EMBEDDING, ratio)
    with pytest.raises(ValueError, match="`selected_idxs` must be 1-D indices from 0 to 499, or a mask"):
        KCenterGreedy(EMBEDDING, 0.1).select_coreset_idxs([500])
    with pytest.raises(ValueError, match="`selected_idxs` must leave 450 rows to select, got 51 of 500 rows"):
        KCenterGreedy(EMBEDDING, 0.9).select_coreset_idxs(range(51))
    with pytest.raises(ValueError, match="finite"):
        KCenterGreedy(EMBEDDING / 0, 0.1).select_coreset_idxs()


def test_names_and_signatures_are_theirs():
    real = theirs()
    assert list(inspect.signature(KCenterGreedy).parameters) == list(inspect.signature(real).parameters)
    for name in ("select_coreset_idxs", "sample_coreset"):
        own = list(inspect.signature(getattr(KCenterGreedy, name)).parameters)
        assert own[: len(inspect.signature(getattr(real, name)).parameters)] == list(
            inspect.signature(getattr(real, name)).parameters
        )
    for ratio in (0.1, 0.013, 1.0):
        assert KCenterGreedy(EMBEDDING, ratio).coreset_size == real(EMBEDDING, ratio).coreset_size
    with pytest.raises(ValueError, match="coreset_size must be a positive integer"):
        real(EMBEDDING, 0.001)


def test_picks_are_theirs_without_projection_and_chance():
    """Rows of two dimensions are not projected by anomalib, and what follows on its random first row is determined."""
    real = theirs()
    torch.manual_seed(3)
    images = EMBEDDING.reshape(500, 4, 6)
    first, *others = real(images, 0.1).select_coreset_idxs()
    assert KCenterGreedy(images, 49 / 500).select_coreset_idxs([first]) == others

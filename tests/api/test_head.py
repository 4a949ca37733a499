"""The head: it learns, repeats itself, sees the context in its BatchNorm, and survives its file."""

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from api.fakes import tiny_config
from difal.errors import UserError
from difal.features.dense import dense_classes, dense_logits
from difal.heads import Head, train_head


def blobs(rows=60, classes=3, width=10, seed=0):
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, classes, rows)
    centres = np.random.default_rng(9).standard_normal((classes, width))
    features = centres[targets] + 0.2 * rng.standard_normal((rows, width))
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float16), targets


def config(tmp_path, **changes):
    return tiny_config(tmp_path, **{"epochs": 30, "context": 32, **changes})


def test_it_learns(tmp_path):
    features, targets = blobs()
    test, answers = blobs(200, seed=1)
    head = train_head(features, targets, blobs(300, seed=2)[0], 3, config(tmp_path))
    predicted = head.logits(test, np.arange(200)).argmax(1).numpy()
    assert (predicted == answers).mean() > 0.95


def test_it_repeats_itself(tmp_path):
    features, targets = blobs()
    context = blobs(50, seed=2)[0]
    state = torch.get_rng_state()
    heads = [train_head(features, targets, context, 3, config(tmp_path), part) for part in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    weights = [head.state_dict()["project.weight"] for head in heads]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_batchnorm_knows_the_context(tmp_path):
    features, targets = blobs()
    context = blobs(400, seed=2)[0][:, ::-1] + np.float16(0.5)
    head = train_head(features, targets, context, 3, config(tmp_path))
    rows = torch.from_numpy(np.concatenate([features, context]).astype(np.float32))
    hidden = torch.relu(head.project(rows))
    norm = head.rest[1]
    assert torch.allclose(norm.running_mean, hidden.mean(0), atol=1e-5)
    assert torch.allclose(norm.running_var, hidden.var(0), atol=1e-5)


def test_one_label_of_each_is_enough(tmp_path):
    features, targets = blobs(3)
    head = train_head(features[:1], targets[:1], blobs(20, seed=2)[0], 3, config(tmp_path, head_batch=1, context=4))
    assert bool(head.logits(features, np.arange(3)).isfinite().all())
    train_head(features, targets, features[:0], 3, config(tmp_path, head_batch=2))  # a last batch of one row
    with pytest.raises(ValueError, match="BatchNorm needs at least two rows"):
        train_head(features[:1], targets[:1], features[:0], 3, config(tmp_path))
    with pytest.raises(ValueError, match="n > 0"):
        train_head(features[:0], targets[:0], features, 3, config(tmp_path))


def test_it_survives_its_file(tmp_path):
    head = train_head(*blobs(), blobs(20, seed=2)[0], 3, config(tmp_path))
    head.save(tmp_path / "head.safetensors")
    loaded = Head.load(tmp_path / "head.safetensors")
    features = blobs()[0]
    assert torch.equal(loaded.logits(features, np.arange(9)), head.logits(features, np.arange(9)))
    (tmp_path / "head.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="is not a head of this package"):
        Head.load(tmp_path / "head.safetensors")


def test_rows_are_read_in_chunks():
    head = Head(10, 3).eval()
    features = np.random.default_rng(0).standard_normal((50, 4, 10)).astype(np.float16)
    rows = np.array([7, 3, 49, 3])
    wanted = head(torch.from_numpy(features[rows]).float().reshape(-1, 10)).reshape(4, 4, 3).detach()
    assert torch.allclose(head.logits(features, rows, chunk=3), wanted, atol=1e-6)
    assert head.logits(features, rows[:0]).shape == (0, 4, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_dense_prediction_is_that_of_the_resized_features(dtype):
    torch.manual_seed(0)
    maps = [torch.randn(2, c, h, w).to(dtype) for c, h, w in ((5, 4, 6), (3, 8, 12), (5, 4, 6))]
    head = Head(13, 4)
    with torch.no_grad():
        for _ in range(3):
            head.train()(torch.randn(64, 13))
        head.eval()
        size = (16, 20)
        full = torch.cat([interpolate(m.double(), size, mode="bilinear", align_corners=False) for m in maps], 1)
        rows = (full / full.norm(dim=1, keepdim=True)).permute(0, 2, 3, 1).reshape(-1, 13)
        wanted = head.double()(rows).reshape(2, *size, 4)
        head.float()
    got = dense_logits(head, maps, size)
    assert torch.allclose(got.double(), wanted, atol=1e-4)
    assert torch.equal(dense_classes(head, maps, size).long(), got.argmax(-1))

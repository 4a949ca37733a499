"""The heads: each learns, repeats itself, survives its file and predicts densely; and what only one of them does."""

import json

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from api.fakes import tiny_config
from difal.errors import ConfigError, UserError
from difal.features.dense import dense_classes, dense_logits
from difal.files import write_tensors
from difal.heads import ABSENT, HEADS, check_head, drop, load_head, made_of, make_head, train_head
from difal.heads.linear import LinearHead
from difal.heads.logistic import balanced_logistic, moments

SHAPES = {"linear": (13, 4), "mlp": (13, 128, 32, 4)}
every_head = pytest.mark.parametrize("name", sorted(HEADS))


def blobs(rows=60, classes=3, width=10, seed=0):
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, classes, rows)
    centres = np.random.default_rng(9).standard_normal((classes, width))
    features = centres[targets] + 0.2 * rng.standard_normal((rows, width))
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float16), targets


def config(tmp_path, head="mlp", **changes):
    return tiny_config(tmp_path, **{"head": head, "epochs": 30, "context": 32, **changes})


def head_of(name):
    """A head of random weights."""
    torch.manual_seed(0)
    head = HEADS[name](*SHAPES[name])
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_()
        for _ in range(3):
            head.train()(torch.randn(64, 13))
    return head.eval().requires_grad_(False)


@every_head
def test_it_learns(tmp_path, name):
    features, targets = blobs()
    test, answers = blobs(200, seed=1)
    head = train_head(features, targets, blobs(300, seed=2)[0], 3, config(tmp_path, name))
    predicted = head.logits(test, np.arange(200)).argmax(1).numpy()
    assert (predicted == answers).mean() > 0.95


@every_head
def test_it_repeats_itself_on_any_number_of_threads(tmp_path, name):
    features, targets = blobs(100, width=300)
    context = blobs(200, width=300, seed=2)[0]
    state, before = torch.get_rng_state(), torch.get_num_threads()
    try:
        found = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(train_head(features, targets, context, 3, config(tmp_path, name), 0).state_dict())
    finally:
        torch.set_num_threads(before)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


def test_only_the_mlp_has_a_random_part(tmp_path):
    features, targets = blobs()
    context = blobs(50, seed=2)[0]
    for name, differs in (("mlp", True), ("linear", False)):
        a, b = (train_head(features, targets, context, 3, config(tmp_path, name), part) for part in (0, 1))
        assert torch.equal(a.project.weight, b.project.weight) != differs


@every_head
def test_it_survives_its_file(tmp_path, name):
    head = train_head(*blobs(), blobs(20, seed=2)[0], 3, config(tmp_path, name))
    head.save(tmp_path / "head.safetensors")
    loaded = load_head(tmp_path / "head.safetensors")
    features = blobs()[0]
    assert type(loaded) is HEADS[name]
    assert torch.equal(loaded.logits(features, np.arange(9)), head.logits(features, np.arange(9)))
    (tmp_path / "head.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="is not a head of this package"):
        load_head(tmp_path / "head.safetensors")


@every_head
def test_a_file_of_an_earlier_version_has_no_constant(tmp_path, name):
    """It had none to add to the scores; the first ones named no head either, and held the MLP."""
    head = head_of(name)
    tensors = {key: value for key, value in head.state_dict().items() if not key.endswith("constant")}
    assert len(tensors) == len(head.state_dict()) - 1
    shape = ",".join(map(str, SHAPES[name]))
    facts = [{"head": f"{name} {shape}"}, *([{"sizes": shape}] if name == "mlp" else [])]
    rows = torch.randn(5, 13)
    for fact in facts:
        write_tensors(tmp_path / "head.safetensors", tensors, fact)
        loaded = load_head(tmp_path / "head.safetensors")
        assert type(loaded) is HEADS[name]
        assert torch.equal(loaded(rows), head(rows))


@every_head
def test_a_flipped_bit_is_no_other_head(tmp_path, name):
    """Wherever it is in the file: the head is refused, or it is the one that was saved."""
    saved, path = HEADS[name](*{"linear": (5, 3), "mlp": (5, 3, 2, 3)}[name]), tmp_path / "head.safetensors"
    with torch.no_grad():
        for tensor in saved.state_dict().values():
            tensor.copy_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1)))
    saved.save(path, "0123456789ab")
    assert made_of(path) == "0123456789ab"
    whole, refused = path.read_bytes(), 0
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << (at % 8)
        path.write_bytes(damaged)
        try:
            found = load_head(path)
        except UserError:
            refused += 1
            continue
        assert type(found) is type(saved)
        assert all(torch.equal(tensor, found.state_dict()[key]) for key, tensor in saved.state_dict().items()), at
        assert made_of(path) in ("0123456789ab", None)
    assert refused > 0.8 * len(whole)


@every_head
def test_a_checksum_that_cannot_be_told_is_not_left_out(tmp_path, name):
    """As if the file were of an earlier version: a tensor may have been hit, too."""
    path = tmp_path / "head.safetensors"
    head_of(name).save(path, "0123456789ab")
    whole = path.read_bytes()
    for mark in (b"crc", b"32:"):
        damaged = bytearray(whole)
        damaged[whole.index(mark)] ^= 1
        damaged[-2] ^= 64
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="the file was damaged"):
            load_head(path)


@every_head
def test_a_head_whose_file_has_no_checksum(tmp_path, name):
    """As earlier versions wrote it, with the digest of its labels or, of `difal label`, without."""
    head, path, shape = head_of(name), tmp_path / "head.safetensors", ",".join(map(str, SHAPES[name]))
    rows = torch.randn(5, 13)
    for words, wanted in (([], None), (["0123456789ab"], "0123456789ab")):
        write_tensors(path, head.state_dict(), {"head": " ".join([name, shape, *words])})
        assert torch.equal(load_head(path)(rows), head(rows))
        assert made_of(path) == wanted
        head.save(path, *words)
        assert torch.equal(load_head(path)(rows), head(rows))
        assert made_of(path) == wanted


def test_names_and_input_are_checked(tmp_path):
    features, targets = blobs(3)
    with pytest.raises(ConfigError, match="`head` must be one of linear, mlp, got 'deep'"):
        check_head("deep")
    with pytest.raises(ConfigError, match="`head` must be one of"):
        train_head(features, targets, features, 3, config(tmp_path, "deep"))
    with pytest.raises(ValueError, match="n > 0"):
        train_head(features[:0], targets[:0], features, 3, config(tmp_path))
    with pytest.raises(ValueError, match="BatchNorm needs at least two rows"):
        train_head(features[:1], targets[:1], features[:0], 3, config(tmp_path))
    for name in HEADS:
        for wrong in (-1, 3):
            with pytest.raises(ValueError, match=r"`targets` must be from 0 to 2, got"):
                train_head(features, np.array([0, 1, wrong]), features, 3, config(tmp_path, name))


@every_head
def test_one_label_is_enough(tmp_path, name):
    features, targets = blobs(3)
    settings = config(tmp_path, name, head_batch=1, context=4)
    head = train_head(features[:1], targets[:1], blobs(20, seed=2)[0], 3, settings)
    assert bool(head.logits(features, np.arange(3)).isfinite().all())


@every_head
def test_rows_are_read_in_chunks(name):
    head = head_of(name)
    features = np.random.default_rng(0).standard_normal((50, 4, 13)).astype(np.float16)
    rows = np.array([7, 3, 49, 3])
    wanted = head(torch.from_numpy(features[rows]).float().reshape(-1, 13)).reshape(4, 4, 4)
    assert torch.allclose(head.logits(features, rows, chunk=3), wanted, atol=1e-6)
    assert head.logits(features, rows[:0]).shape == (0, 4, 4)


@every_head
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_dense_prediction_is_that_of_the_resized_features(name, dtype):
    maps = [torch.randn(2, c, h, w).to(dtype) for c, h, w in ((5, 4, 6), (3, 8, 12), (5, 4, 6))]
    head, size = head_of(name), (16, 20)
    full = torch.cat([interpolate(m.double(), size, mode="bilinear", align_corners=False) for m in maps], 1)
    rows = (full / full.norm(dim=1, keepdim=True)).permute(0, 2, 3, 1).reshape(-1, 13)
    wanted = head.double()(rows).reshape(2, *size, 4)
    got = dense_logits(head.float(), maps, size)
    assert torch.allclose(got.double(), wanted, atol=1e-4)
    assert torch.equal(dense_classes(head, maps, size).long(), got.argmax(-1))


def test_batchnorm_knows_the_context(tmp_path):
    features, targets = blobs()
    context = blobs(400, seed=2)[0][:, ::-1] + np.float16(0.5)
    head = train_head(features, targets, context, 3, config(tmp_path))
    rows = torch.from_numpy(np.concatenate([features, context]).astype(np.float32))
    hidden = torch.relu(head.project(rows))
    norm = head.rest[1]
    assert torch.allclose(norm.running_mean, hidden.mean(0), atol=1e-5)
    assert torch.allclose(norm.running_var, hidden.var(0), atol=1e-5)


def test_the_mlp_trains_on_a_last_batch_of_one_row(tmp_path):
    features, targets = blobs(3)
    train_head(features, targets, features[:0], 3, config(tmp_path, head_batch=2))


@pytest.mark.parametrize("width", [30, 200])
def test_the_regression_is_at_its_optimum(width):
    """The gradient of the balanced loss, written out, is zero; also where there are more columns than rows."""
    rng = np.random.default_rng(1)
    rows, targets = rng.standard_normal((80, width)), np.repeat([0, 1, 2], [50, 25, 5])
    weight, bias = (
        part.numpy() for part in balanced_logistic(torch.from_numpy(rows), torch.from_numpy(targets), 3, 2.5)
    )
    scores = rows @ weight.T + bias
    shares = np.exp(scores - scores.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    balance = (80 / (3 * np.bincount(targets)))[targets]
    wrong = balance[:, None] * (shares - np.eye(3)[targets])
    assert np.abs(wrong.T @ rows + 2.5 * weight).max() < 1e-5
    assert np.abs(wrong.sum(0)).max() < 1e-5


@pytest.mark.parametrize("lift", [0.0, 0.5])
def test_the_linear_head_is_the_regression_on_standardised_features(tmp_path, lift):
    features, targets = blobs(60, width=12)
    context = blobs(100, width=12, seed=3)[0]
    head = train_head(features, targets, context, 3, config(tmp_path, "linear", penalty=7.0, lift=lift))
    mean, deviation = context.astype(np.float64).mean(0), context.astype(np.float64).std(0)
    rows = torch.from_numpy((features.astype(np.float64) - mean) / deviation)
    weight, bias = balanced_logistic(rows, torch.from_numpy(targets), 3, 7.0)
    unlabeled = torch.from_numpy((context.astype(np.float64) - mean) / deviation)
    shares = (unlabeled @ weight.T + bias).softmax(1).mean(0)
    wanted = rows @ weight.T + bias - lift * shares.log()
    assert torch.allclose(head(torch.from_numpy(features).float()).double(), wanted, atol=1e-4)
    learned = head.logits(features, np.arange(60), learned=True).double()
    assert torch.allclose(learned, rows @ weight.T + bias, atol=1e-4)


def test_the_lift_makes_a_class_of_few_labels_be_predicted_more(tmp_path):
    rng = np.random.default_rng(0)
    features, targets = rng.standard_normal((63, 20)).astype(np.float32), np.repeat([0, 1, 2], [30, 30, 3])
    features[np.arange(63), targets] += 1.5
    context = rng.standard_normal((400, 20)).astype(np.float32)
    predicted = [
        train_head(features, targets, context, 3, config(tmp_path, "linear", lift=lift))
        .logits(context, np.arange(400))
        .argmax(1)
        .bincount(minlength=3)
        for lift in (0.0, 0.5, 1.0)
    ]
    assert predicted[0][2] < predicted[1][2] < predicted[2][2]
    alone = train_head(features, targets, context[:0], 3, config(tmp_path, "linear"))
    assert bool(alone.logits(context, np.arange(400)).isfinite().all())


@every_head
def test_classes_without_a_label_are_never_predicted(tmp_path, name):
    """Also far from all labels, where a network may well prefer one that it saw none of; and after its file."""
    features, targets = blobs(60, classes=3)
    ids, absent = np.array([1, 4, 6])[targets], [0, 2, 3, 5, 7]
    trained = train_head(features, ids, blobs(50, seed=2)[0], 8, config(tmp_path, name, epochs=2))
    trained.save(tmp_path / "head.safetensors")
    far = np.random.default_rng(3).normal(size=(500, features.shape[1])).astype(np.float32)
    rows = np.concatenate([features, -100 * features, far])
    for head in (trained, load_head(tmp_path / "head.safetensors")):
        assert set(head.logits(rows, np.arange(len(rows))).argmax(1).tolist()) <= {1, 4, 6}
    near = trained.logits(features, np.arange(60))
    learned = trained.logits(features, np.arange(60), learned=True)
    assert float(near.softmax(1)[:, absent].max()) == 0
    if name == "linear":
        dropped = drop(learned, 0.5, torch.Generator().manual_seed(0))
        assert bool((dropped[:, absent] == ABSENT).all())
    else:  # as in the paper, acquisition functions read the scores of all classes
        assert float(learned[:, absent].min()) > ABSENT / 2


@every_head
def test_labels_of_one_class_predict_it_everywhere(tmp_path, name):
    features, _ = blobs(40)
    head = train_head(features, np.full(40, 2), blobs(50, seed=2)[0], 5, config(tmp_path, name))
    assert set(head.logits(50 * features, np.arange(40)).argmax(1).tolist()) == {2}


def test_a_column_that_does_not_vary_counts_nothing():
    context = torch.from_numpy(np.random.default_rng(0).standard_normal((50, 4)))
    context[:, 2] = 3.0
    mean, deviation = moments(context, context[:1])
    assert torch.equal((context - mean)[:, 2] / deviation[2], torch.zeros(50, dtype=torch.float64))
    mean, deviation = moments(context[:0], context[:1])
    assert torch.equal(mean, context[0])
    assert torch.equal(deviation, torch.ones(4, dtype=torch.float64))


def test_a_head_is_made_of_its_description():
    head = head_of("linear")
    described = json.loads(json.dumps([head.name, head.shape]))
    made = make_head(described[0], tuple(described[1]), head.state_dict())
    assert isinstance(made, LinearHead)
    assert torch.equal(made.project.weight, head.project.weight)

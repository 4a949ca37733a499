"""Each acquisition against its definition in plain float64."""

import copy

import numpy as np
import pytest
import torch

import difal_kernels
from api.fakes import FakeEncoder, tiny_config, tiny_data
from difal.acquisition import SELECTORS, acquisitions, check_acquisition, select, training_dropout, within_share
from difal.acquisition.information import most_informative
from difal.acquisition.probcover import pure_radius
from difal.acquisition.skips import answerable
from difal.errors import ConfigError
from difal.features.build import build_cache
from difal.files import derive_seed
from difal.heads import train_head
from difal.heads.logistic import balanced_logistic
from difal.timing import StageClock
from difal_kernels import maxherding
from difal_kernels.ops.typiclust.kmeans import kmeans

SCORES = ("entropy", "margin", "least_confidence", "dald", "edald")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    return build_cache(folder, tiny_data(train=4).train, FakeEncoder, tiny_config(folder, random=12, noise_samples=3))


@pytest.fixture(scope="module")
def head(cache, tmp_path_factory):
    rows = np.arange(0, 32, 3)
    features = cache.features("local")[rows]
    return train_head(
        features, rows % 4, cache.context(), 4, tiny_config(tmp_path_factory.mktemp("h"), head="mlp", epochs=40)
    )


def entropy(p):
    return -(p * np.log(p)).sum(-1)


def plain_scores(name, cache, pixels, head):
    """Every row of a set, by the formulas of the method."""

    def softmax(features):
        with torch.no_grad():
            return head(torch.from_numpy(np.array(features, np.float32))).double().softmax(-1).numpy()

    p = softmax(cache.features(pixels))
    samples = np.stack([softmax(cache.noise(pixels)[:, k]) for k in range(3)], 1)
    dald = entropy(samples.mean(1)) - entropy(samples).mean(1)
    top = np.sort(p, -1)[:, ::-1]
    return {
        "entropy": entropy(p),
        "margin": 1 - (top[:, 0] - top[:, 1]),
        "least_confidence": 1 - top[:, 0],
        "dald": dald,
        "edald": entropy(p) + 2 * dald,
    }[name]


def choose(cache, head, asked, tmp_path, labels=(), **changes):
    config = tiny_config(tmp_path, **{"edald_weight": 2.0, "acquisition": "two-stage-edald", **changes})
    return select(cache, head, asked, 5, 1, config, StageClock(), 4, labels)


@pytest.mark.parametrize("name", SCORES)
def test_a_score_alone_takes_the_highest_of_the_random_pixels(name, cache, head, tmp_path):
    asked = [cache.pixel("random", row) for row in (0, 7, 30)]
    scores = plain_scores(name, cache, "random", head)
    scores[[0, 7, 30]] = -np.inf
    best = np.argsort(-scores, kind="stable")[:5]
    picks = choose(cache, head, asked, tmp_path, acquisition=name)
    assert picks.pixels == [cache.pixel("random", row) for row in best]
    assert picks.scores == pytest.approx(scores[best], abs=1e-5)


def test_the_released_edald(cache, head, tmp_path):
    """Probabilities in place of their logarithms: other picks, those of the compatible function."""
    with torch.no_grad():
        single, samples = (
            head(torch.from_numpy(np.array(rows, np.float32).reshape(-1, 20))).reshape(len(rows), -1, 4)
            for rows in (cache.features("random"), cache.noise("random"))
        )
    scores = difal_kernels.edald(samples, single[:, 0], weight=2.0, compat="released").numpy()
    picks = choose(cache, head, [], tmp_path, acquisition="edald", compat="released")
    assert picks.pixels == [cache.pixel("random", row) for row in np.argsort(-scores, kind="stable")[:5]]
    assert picks.scores != choose(cache, head, [], tmp_path, acquisition="edald").scores


@pytest.mark.parametrize("name", SCORES)
def test_two_stages(name, cache, head, tmp_path):
    rows = [2, 9, 21]
    asked = [cache.pixel("local", row) for row in rows]
    features = np.array(cache.features("local"), np.float64)
    left = np.setdiff1d(np.arange(32), rows)
    kept = maxherding(features, round(0.4 * 29), labeled=features[rows], candidates=left, backend="reference")
    scores = plain_scores(name, cache, "local", head)[kept]
    best = kept[np.argsort(-scores, kind="stable")[:5]]
    picks = choose(cache, head, asked, tmp_path, acquisition=f"two-stage-{name}", keep=0.4)
    assert picks.pixels == [cache.pixel("local", row) for row in best]
    assert picks.survivors == 12


SURE = ("entropy", "margin", "least_confidence", "edald", "dald", "margin-herding", "uherding")


@pytest.mark.parametrize("staged", [False, True])
@pytest.mark.parametrize("name", SURE)
def test_where_one_class_is_labeled_coverage_chooses(name, staged, cache, tmp_path):
    """A head of one class is sure of every pixel; the first pixels of the pool would come of it."""
    pixels = "local" if staged else "random"
    rows = np.array([3, 11])
    features = cache.features(pixels)
    sure = train_head(features[rows], np.array([2, 2]), cache.context(), 4, tiny_config(tmp_path, head="linear"))
    asked = [cache.pixel(pixels, row) for row in rows]
    with pytest.warns(UserWarning, match="coverage"):
        picks = choose(cache, sure, asked, tmp_path, acquisition=f"two-stage-{name}" if staged else name, keep=0.5)
    left = np.setdiff1d(np.arange(len(features)), rows)
    pool = np.array(features) if staged else np.array(features[left])
    options = {"candidates": left} if staged else {}
    order = maxherding(pool, 5, labeled=features[rows], **options)
    found = {tuple(pixel) for pixel in picks.pixels}
    if name in ("margin-herding", "uherding") and staged:
        assert len(found) == 5  # of what stage 1 keeps, by another coverage
        assert found != {tuple(cache.pixel(pixels, row)) for row in left[:5]}
    else:
        assert found == {tuple(cache.pixel(pixels, row if staged else left[row])) for row in order}


def test_coverage_continues_itself(cache, tmp_path):
    """Two rounds of coverage are one round of twice the budget."""
    first = choose(cache, None, [], tmp_path, acquisition="coverage")
    second = choose(cache, None, first.pixels, tmp_path, acquisition="coverage")
    both = maxherding(np.array(cache.features("local")), 10)
    assert first.pixels + second.pixels == [cache.pixel("local", row) for row in both]


@pytest.mark.parametrize("name", acquisitions())
def test_without_a_head(name, cache, tmp_path):
    picks = choose(cache, None, [], tmp_path, acquisition=name)
    staged = name == "coverage" or name.startswith("two-stage")
    assert picks.how == ("coverage" if staged else name if name in SELECTORS else "random")
    assert len(set(picks.pixels)) == 5
    if staged:
        assert picks.pixels == choose(cache, None, [], tmp_path, acquisition="coverage").pixels


def test_random_depends_on_seed_and_round(cache, tmp_path):
    first = choose(cache, None, [], tmp_path, acquisition="random")
    assert first == choose(cache, None, [], tmp_path, acquisition="random")
    assert first.pixels != choose(cache, None, [], tmp_path, acquisition="random", seed=1).pixels


def test_nothing_left(cache, tmp_path):
    everything = [cache.pixel("local", row) for row in range(32)]
    assert choose(cache, None, everything, tmp_path).pixels == []
    assert len(choose(cache, None, everything[:-2], tmp_path).pixels) == 2


def test_an_unknown_name():
    with pytest.raises(ConfigError, match="one of bait-then-herding, two-stage-edald, coverage, random"):
        check_acquisition("best")


@pytest.mark.parametrize("name", ["bald", "entropy_bald", "power_bald", "balentacq"])
def test_mc_dropout(name, cache, head, tmp_path):
    """The BALD family against its own function over dropped class scores."""
    config = tiny_config(tmp_path, acquisition=name, noise_samples=4, dropout=0.3)
    with torch.no_grad():
        single = head(torch.from_numpy(np.array(cache.features("random"), np.float32)))
    rng = torch.Generator().manual_seed(derive_seed("score", config.seed, 1))
    kept = torch.rand(len(single), 4, single.shape[1], generator=rng) >= 0.3
    samples = single[:, None] * kept / 0.7
    scores = {
        "bald": lambda: difal_kernels.bald(samples),
        "entropy_bald": lambda: difal_kernels.entropy(single) + difal_kernels.bald(samples),
        "power_bald": lambda: difal_kernels.power_bald(samples, generator=rng),
        "balentacq": lambda: difal_kernels.balentacq(samples),
    }[name]()
    picks = select(cache, head, [], 5, 1, config, StageClock())
    best = np.argsort(-scores.numpy(), kind="stable")[:5]
    assert picks.pixels == [cache.pixel("random", row) for row in best]
    assert picks == select(cache, head, [], 5, 1, config, StageClock())
    assert training_dropout(config) == 0.3
    assert training_dropout(tiny_config(tmp_path, acquisition="two-stage-edald")) == 0


def test_dropout_in_training_changes_the_head(cache, head, tmp_path):
    rows = np.arange(0, 32, 3)
    arguments = (
        cache.features("local")[rows],
        rows % 4,
        cache.context(),
        4,
        tiny_config(tmp_path, head="mlp", epochs=40),
    )
    dropped = train_head(*arguments, dropout=0.2)
    assert not torch.equal(dropped.project.weight, head.project.weight)
    assert torch.equal(dropped.project.weight, train_head(*arguments, dropout=0.2).project.weight)


def test_every_rival_of_the_paper_is_there_with_and_without_stage_1():
    names = "entropy margin least_confidence bald entropy_bald power_bald balentacq dald power_dald edald"
    rivals = set(names.split()) | {
        "coreset",
        "probcover",
        "typiclust",
        "uherding",
        "margin-herding",
        "balanced-herding",
        "bait",
        "balanced-bait",
        "bait-then-herding",
    }
    assert rivals | {f"two-stage-{name}" for name in rivals} | {"random", "two-stage-random", "coverage"} <= set(
        acquisitions()
    )


@pytest.mark.parametrize("name", ["coverage", "random", "two-stage-edald"])
def test_a_share_of_the_bank(name, cache, head, tmp_path):
    """Each seed is kept to pixels of its own, the same in every round."""
    asked = {}
    for seed in (0, 1):
        config = tiny_config(tmp_path, acquisition=name, share=0.5, seed=seed)
        pixels = "random" if name == "random" else "local"
        may = np.flatnonzero(within_share(cache, pixels, config))
        assert len(may) == len(cache.features(pixels)) // 2
        allowed, found = {cache.pixel(pixels, row) for row in may}, []
        for index in range(3):
            found += select(cache, head if index else None, found, 5, index, config, StageClock()).pixels
        assert set(found) <= allowed
        asked[seed] = found
    assert asked[0] != asked[1]


def selected(name, features, labeled, unsure, budget):
    """What a selector must choose of `features`, as positions."""
    return {
        "coreset": lambda: difal_kernels.kcenter_greedy(features, budget, labeled=labeled, backend="reference"),
        "typiclust": lambda: difal_kernels.typiclust(features, budget, labeled=labeled),
        "probcover": lambda: difal_kernels.probcover(features, 0.3, budget, labeled=labeled, backend="reference"),
        "uherding": lambda: difal_kernels.uherding(
            features, unsure, budget, labeled=labeled, bandwidth="labeled", backend="reference"
        ),
    }[name]()


@pytest.mark.parametrize("staged", [False, True])
@pytest.mark.parametrize("name", ["coreset", "typiclust", "probcover", "uherding"])
def test_selectors(name, staged, cache, head, tmp_path):
    """Each chooses among the open pixels, or among those that stage 1 keeps, given all that was asked."""
    pixels, rows = ("local", [2, 9, 21]) if staged else ("random", [0, 7, 30])
    asked = [cache.pixel(pixels, row) for row in rows]
    features = np.array(cache.features(pixels), np.float64)
    left = np.setdiff1d(np.arange(len(features)), rows)
    if staged:
        keep = round(0.5 * len(left))
        left = np.sort(maxherding(features, keep, labeled=features[rows], candidates=left, backend="reference"))
    unsure = plain_scores("margin", cache, pixels, head)[left]
    wanted = left[selected(name, features[left], features[rows], unsure, 5)]
    acquisition = f"two-stage-{name}" if staged else name
    picks = choose(cache, head, asked, tmp_path, acquisition=acquisition, radius=0.3)
    assert picks.pixels == [cache.pixel(pixels, row) for row in wanted]
    assert picks.how == name
    assert picks == choose(cache, head, asked, tmp_path, acquisition=acquisition, radius=0.3)


@pytest.mark.parametrize("staged", [False, True])
def test_margin_herding_covers_what_stage_1_left_out(staged, cache, head, tmp_path):
    pixels, rows = ("local", [2, 9, 21]) if staged else ("random", [0, 7, 30])
    asked = [cache.pixel(pixels, row) for row in rows]
    features = np.array(cache.features(pixels), np.float64)
    covered = may = np.setdiff1d(np.arange(len(features)), rows)
    if staged:
        may = maxherding(features, round(0.5 * len(may)), labeled=features[rows], candidates=may, backend="reference")
    wanted = maxherding(
        features[covered],
        5,
        labeled=features[rows],
        candidates=np.searchsorted(covered, np.sort(may)),
        weights=plain_scores("margin", cache, pixels, head)[covered],
        backend="reference",
    )
    picks = choose(cache, head, asked, tmp_path, acquisition=("two-stage-" if staged else "") + "margin-herding")
    assert picks.pixels == [cache.pixel(pixels, row) for row in covered[wanted]]


@pytest.mark.parametrize("staged", [False, True])
def test_balanced_herding_wants_classes_of_few_labels_and_pixels_that_are_answered(staged, cache, head, tmp_path):
    """Against its formula in float64; it chooses among the local picks with and without stage 1b."""
    queried, labels = [2, 9, 21, 30, 5, 13], [0, 0, 0, 1, None, None]
    asked = [cache.pixel("local", row) for row in queried]
    features = np.array(cache.features("local"), np.float64)
    settings = {"penalty": 0.5, "labels": labels}
    rows = cache.open_rows("local", asked)
    covered, answered = answerable(
        cache, "local", rows, asked, [label is None for label in labels], 1, tiny_config(tmp_path, penalty=0.5)
    )
    assert 5 < len(covered) < len(rows)
    with torch.no_grad():
        p = head(torch.from_numpy(features[covered]).float()).double().softmax(1).numpy()
    weights = plain_scores("margin", cache, "local", head)[covered] * (p @ (1 / np.array([4, 2, 1, 1]))) * answered**3
    may = covered
    if staged:
        keep = max(5, round(0.5 * len(may)))
        may = maxherding(features, keep, labeled=features[queried], candidates=may, backend="reference")
    wanted = maxherding(
        features[covered],
        5,
        labeled=features[queried],
        candidates=np.searchsorted(covered, np.sort(may)),
        weights=weights,
        backend="reference",
    )
    name = ("two-stage-" if staged else "") + "balanced-herding"
    picks = choose(cache, head, asked, tmp_path, acquisition=name, **settings)
    assert picks.pixels == [cache.pixel("local", row) for row in covered[wanted]]
    first = choose(cache, None, [], tmp_path, acquisition=name)
    few = maxherding(features, 5, backend="reference")
    assert first.pixels == [cache.pixel("local", row) for row in few]  # without a head it covers


@pytest.mark.parametrize("staged", [False, True])
@pytest.mark.parametrize("name", ["bait", "balanced-bait"])
def test_bait_chooses_by_fisher_information(name, staged, cache, head, tmp_path):
    """Against its formulas in float64; fewer axes than the features have would be a rotation."""
    balanced = name == "balanced-bait"
    pixels = "local" if staged or balanced else "random"
    queried, labels = [2, 9, 21, 30, 5, 13], [0, 0, 0, 1, None, None]
    asked = [cache.pixel(pixels, row) for row in queried]
    features = np.array(cache.features(pixels), np.float64)
    settings = {"penalty": 0.5, "labels": labels}
    rows = cache.open_rows(pixels, asked)
    pool, answered = answerable(
        cache, pixels, rows, asked, [label is None for label in labels], 1, tiny_config(tmp_path, penalty=0.5)
    )
    with torch.no_grad():
        p = head(torch.from_numpy(features).float()).double().softmax(1).numpy()
    h, answered = 1 - (p**2).sum(1), answered if balanced else np.ones(len(pool))
    rarity = p[pool] @ (1 / np.array([4, 2, 1, 1])) if balanced else 1
    may = pool
    if staged:
        keep = max(5, round(0.5 * len(pool)))
        may = maxherding(features, keep, labeled=features[queried], candidates=pool, backend="reference")
    context = cache.context().astype(np.float64)
    z = (features - context.mean(0)) / context.std(0)
    given = z[pool], h[pool] * answered**3, h[pool] * rarity * answered**2, np.isin(pool, may)
    chosen, gains = most_informative(*map(torch.from_numpy, (*given, z[queried[:4]], h[queried[:4]])), 5, 0.5)
    acquisition = ("two-stage-" if staged else "") + name
    picks = choose(cache, head, asked, tmp_path, acquisition=acquisition, **settings)
    assert picks.pixels == [cache.pixel(pixels, row) for row in pool[chosen]]
    assert picks.scores == pytest.approx(gains, rel=1e-3)
    first = choose(cache, None, [], tmp_path, acquisition=acquisition)
    few = maxherding(features, 5, backend="reference")
    assert first.pixels == [cache.pixel(pixels, row) for row in few]  # without a head it covers
    untold = choose(cache, head, asked, tmp_path, acquisition=acquisition)
    assert len(untold.pixels) == 5
    if not balanced:  # then every query counts as labeled
        assert untold == choose(cache, head, asked, tmp_path, acquisition=acquisition, labels=[0] * 6)
    least, none = (
        choose(cache, head, asked, tmp_path, acquisition=acquisition, labels=[0] * 6, penalty=penalty)
        for penalty in (1e-3, 0.0)
    )
    assert none == least
    tenfold = choose(cache, head, asked, tmp_path, acquisition=acquisition, labels=[0] * 6, penalty=1e-2)
    assert none.scores != tenfold.scores


@pytest.mark.parametrize("name", ["bait", "balanced-bait", "bait-then-herding", "two-stage-bait"])
@pytest.mark.parametrize("factor", [1e-25, 1e25])
def test_bait_does_not_depend_on_the_unit_of_the_features(name, factor, cache, tmp_path):
    """The squares of the scaled features are beyond float32."""
    scaled = copy.copy(cache)
    scaled.arrays = {
        key: array.astype(np.float32) * np.float32(factor) if key.endswith(".features") else array
        for key, array in cache.arrays.items()
    }
    rows, labels = np.arange(0, 32, 3), [0, 0, 0, 0, None, 0, 1, 1, 1, 2, 3]
    asked, found = [cache.pixel("local", row) for row in rows], []
    for one in (cache, scaled):
        config = tiny_config(tmp_path, head="linear", penalty=0.5)
        known = rows[[label is not None for label in labels]]
        targets = np.array([label for label in labels if label is not None])
        head = train_head(one.features("local")[known], targets, one.context(), 4, config)
        found.append(choose(one, head, asked, tmp_path, labels, acquisition=name, penalty=0.5))
    assert found[1].pixels == found[0].pixels
    assert found[1].scores == pytest.approx(found[0].scores, rel=1e-3)


@pytest.mark.parametrize("name", ["balanced-bait", "balanced-herding"])
def test_without_a_head_coverage_counts_pixels_that_are_answered(name, cache, tmp_path):
    """As in the first round of a run that was given labels, some of them skipped."""
    queried, labels = [2, 9, 21, 30, 5, 13], [0, 0, 0, 1, None, None]
    asked, config = [cache.pixel("local", row) for row in queried], tiny_config(tmp_path, penalty=0.5)
    rows, skipped = cache.open_rows("local", asked), [label is None for label in labels]
    left, answered = answerable(cache, "local", rows, asked, skipped, 5, config)
    features = np.array(cache.features("local"), np.float64)
    given = {"labeled": features[queried], "backend": "reference"}
    wanted, alike = (left[maxherding(features[left], 5, weights=w, **given)] for w in (answered**3, None))
    assert wanted.tolist() != alike.tolist()
    picks = choose(cache, None, asked, tmp_path, labels, penalty=0.5, acquisition=name)
    assert picks.pixels == [cache.pixel("local", row) for row in wanted]


@pytest.mark.parametrize("name", ["balanced-bait", "balanced-herding"])
def test_without_a_head_the_kernel_is_that_of_stage_1(name, cache, tmp_path):
    features = np.array(cache.features("local"), np.float64)
    wanted, others = (
        maxherding(features, 5, kernel=kernel, backend="reference", return_info=True) for kernel in ("laplace", "rbf")
    )
    assert np.abs(wanted.gains - others.gains).max() > 0.01
    picks = choose(cache, None, [], tmp_path, kernel="laplace", acquisition=name)
    assert picks.pixels == [cache.pixel("local", row) for row in wanted.indices]
    assert picks.scores == pytest.approx(wanted.gains, rel=1e-3)


@pytest.mark.parametrize("name", ["bait", "balanced-bait", "balanced-herding", "margin-herding"])
def test_the_lift_of_rare_classes_changes_no_pick(name, cache, tmp_path):
    """It is for prediction alone: acquisition functions read what the head has learned."""
    rows = np.arange(0, 32, 3)
    asked, labels = [cache.pixel("local", row) for row in rows], [0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 3]
    given = cache.features("local")[rows], np.array(labels), cache.context(), 4
    heads = [train_head(*given, tiny_config(tmp_path, penalty=0.1, lift=lift)) for lift in (0.0, 1.0)]
    assert not torch.equal(heads[0].rest.constant, heads[1].rest.constant)
    picks = [choose(cache, head, asked, tmp_path, labels, acquisition=name) for head in heads]
    assert picks[0] == picks[1]


@pytest.mark.parametrize("classes", [2, 3])
def test_bait_then_herding_takes_turns_by_the_number_of_labels(classes, cache, head, tmp_path):
    few = 8 * classes
    asked = [cache.pixel("local", row) for row in range(few + 2)]
    for labels, wanted in ((few - 1, "balanced-bait"), (few, "balanced-herding")):
        given = [row % 2 for row in range(labels)] + [None] * (few + 2 - labels)
        names = ("bait-then-herding", "balanced-bait", "balanced-herding")
        configs = [tiny_config(tmp_path, acquisition=name, skips="ask") for name in names]
        picks = [select(cache, head, asked, 5, 1, config, StageClock(), classes, given).pixels for config in configs]
        assert picks[1] != picks[2]
        assert picks[0] == picks[names.index(wanted)]


def test_probcover_guesses_its_radius(cache, head, tmp_path):
    """At the radius 95 % of the balls are pure; at the next larger distance fewer are."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(200, 2)) + 2 * rng.integers(0, 2, size=(200, 1))
    radius, labels = pure_radius(x, 2), kmeans(x, 2, 0)
    r = np.sqrt(((x[:, None] - x) ** 2).sum(-1))
    other = labels[:, None] != labels

    def pure(radius):
        return 1 - ((r <= radius) & other).any(1).mean()

    assert pure(radius * 0.999) >= 0.95 > pure(np.sort(r[other])[np.searchsorted(np.sort(r[other]), radius) + 40])
    assert len(choose(cache, head, [], tmp_path, acquisition="probcover").pixels) == 5
    with pytest.raises(ValueError, match="set --radius"):
        pure_radius(np.zeros((10, 2)), 3)


def test_two_stage_random_takes_any_of_what_stage_1_keeps(cache, head, tmp_path):
    kept = maxherding(np.array(cache.features("local"), np.float64), 16, backend="reference")
    picks = choose(cache, head, [], tmp_path, acquisition="two-stage-random")
    assert set(picks.pixels) <= {cache.pixel("local", row) for row in kept}
    assert picks.pixels != choose(cache, head, [], tmp_path, acquisition="two-stage-random", seed=1).pixels


def test_pixels_like_the_skipped_ones_are_left_out(cache, tmp_path):
    """Against a regression on the same features, written out; whole classes of pixels are what gets skipped."""
    features = np.array(cache.features("local"), np.float64)
    far = features @ features[0]
    order = np.argsort(far)
    queried = [*order[:4], *order[-4:]]
    asked, skipped = [cache.pixel("local", row) for row in queried], [False] * 4 + [True] * 4
    config = tiny_config(tmp_path, penalty=0.5)
    rows = cache.open_rows("local", asked)
    kept, answered = answerable(cache, "local", rows, asked, skipped, 1, config)
    mean, deviation = cache.context().astype(np.float64).mean(0), cache.context().astype(np.float64).std(0)
    z = torch.from_numpy((features - mean) / deviation)
    weight, bias = balanced_logistic(z[queried], torch.tensor(skipped).long(), 2, 0.5)
    odds = (z @ (weight[1] - weight[0]) + bias[1] - bias[0]).numpy()
    assert kept.tolist() == [row for row in rows if odds[row] <= 0]
    assert answered == pytest.approx(1 / (1 + np.exp(odds[kept])), abs=1e-4)
    assert 0 < len(kept) < len(rows)
    for budget, left in ((len(kept), kept), (len(kept) + 1, rows)):  # as many as are queried are enough
        assert answerable(cache, "local", rows, asked, skipped, budget, config)[0].tolist() == left.tolist()
    labels = [None if one else 0 for one in skipped]
    for name in ("coverage", "balanced-herding", "balanced-bait"):
        picks = choose(cache, None, asked, tmp_path, labels, penalty=0.5, acquisition=name)
        places = {cache.pixel("local", row) for row in kept}
        assert set(picks.pixels) <= places


@pytest.mark.parametrize(
    ("skipped", "budget", "changes"),
    [([], 1, {}), ([True, True], 1, {}), ([False, False], 1, {}), ([True, False], 1000, {})],
)
def test_nothing_is_left_out_where_nothing_can_be_learned(cache, tmp_path, skipped, budget, changes):
    asked = [cache.pixel("local", row) for row in range(len(skipped))]
    rows = cache.open_rows("local", asked)
    kept, answered = answerable(cache, "local", rows, asked, skipped, budget, tiny_config(tmp_path, **changes))
    assert np.array_equal(kept, rows)
    assert len(answered) == len(rows)


def test_a_pixel_far_from_all_others_is_answered_with_probability_0(cache, tmp_path, monkeypatch):
    """The odds of it are beyond a float, which is no reason for a warning."""
    features = np.array(cache.arrays["local.features"], np.float32)
    flat = features.reshape(-1, features.shape[-1])
    flat[5] = flat[0] + 1e6 * (flat[1] - flat[0])  # row 1 was skipped
    monkeypatch.setitem(cache.arrays, "local.features", features)
    asked = [cache.pixel("local", row) for row in (0, 1)]
    rows = cache.open_rows("local", asked)
    config = tiny_config(tmp_path, penalty=0.01)
    kept, _ = answerable(cache, "local", rows, asked, [False, True], 1, config)
    assert 5 not in kept
    everything, answered = answerable(cache, "local", rows, asked, [False, True], len(rows), config)
    assert answered[list(everything).index(5)] == 0


def test_skips_do_not_change_random_nor_a_run_that_asks_any_pixel(cache, head, tmp_path):
    asked = [cache.pixel("local", row) for row in range(6)]
    labels = [None, 0] * 3
    for changes in ({"acquisition": "random"}, {"acquisition": "coverage", "skips": "ask"}):
        config = tiny_config(tmp_path, penalty=0.01, **changes)
        arguments = (cache, head, asked, 5, 1, config, StageClock(), 4)
        assert select(*arguments, labels) == select(*arguments)

"""What the journal says: the answer that counts, classes that change, rounds as of the line that closed them."""

import pytest

from annotate.sessions import answer, change, retract
from difal.annotate.agreement import cohen_kappa, disagreements, pairs, summary
from difal.annotate.answers import Answers, close_round
from difal.annotate.classes import KEYS, Classes, assign_keys, looks
from difal.data.base import Data, distinct_colors
from difal.errors import ConfigError, LabelError
from difal.run.labels import Label

CLASSES = ("sky", "road", "tree")


def fold(*entries) -> Answers:
    answers = Answers(CLASSES)
    answers.add(entries)
    return answers


def test_the_answer_that_counts():
    first, better = answer("a", 1, 2, 0), answer("a", 1, 2, 1)
    answers = fold(first, better)
    place = ("a", 2, 1)
    assert answers.current(place) == better
    answers.add([retract(better)])
    assert answers.current(place) == first
    answers.add([answer("a", 1, 2, 2, kind="repeat"), answer("a", 1, 2, 2, kind="second", annotator="bob")])
    assert answers.current(place) == first  # those measure agreement
    answers.add([answer("a", 1, 2, 2, kind="round", annotator="bob")])
    assert answers.current(place) == first  # the run's own annotator goes before another
    settled = answer("a", 1, 2, 2, kind="settle", annotator="bob")
    answers.add([settled])
    assert answers.current(place) == settled
    answers.add([retract(first), retract(settled)])
    assert answers.class_of(answers.current(place)) == 2  # bob's
    assert answers.count() == 1
    assert fold(first, retract(first)).current(place) is None


def test_no_class_fits_and_cannot_tell_are_kept_apart():
    answers = fold(answer("a", 1, 2, None, reason="none"), answer("a", 2, 2, None, reason="unsure"))
    assert [answers.outcome(answers.current(("a", 2, x))) for x in (1, 2)] == ["none", "unsure"]
    assert [label.skipped for label in answers.labels()] == [True, True]
    answers.add([answer("a", 1, 2, 1), answer("a", 5, 5, 0)])  # the first is a class after all
    assert (answers.count(), answers.count_skipped()) == (3, 1)


def test_classes_change_and_ids_stay():
    renamed, merged = change("rename", class_id=1, name="street"), change("merge", class_id=2, into=0)
    answers = fold(answer("a", 0, 0, 2), change("add", name="car"), renamed, merged, answer("a", 1, 0, 3))
    assert answers.classes.names == ["sky", "street", "tree", "car"]
    assert answers.classes.open == [0, 1, 3]
    assert [label.class_id for label in answers.labels()] == [0, 3]
    answers.add([retract(merged), retract(renamed)])
    assert answers.classes.names == ["sky", "road", "tree", "car"]
    assert [label.class_id for label in answers.labels()] == [2, 3]


def test_a_class_whose_adding_is_taken_back_leaves_its_id_reserved():
    added = change("add", name="car")
    answers = fold(added, answer("a", 0, 0, 3), change("add", name="bus"), answer("a", 1, 0, 4), retract(added))
    assert answers.current(("a", 0, 0)) is None  # asked again
    assert answers.classes.names[4] == "bus"
    assert answers.classes.open == [0, 1, 2, 4]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"op": "add", "name": "road"}, "there is a class 'road' already"),
        ({"op": "add", "name": "a,b"}, "no comma"),
        ({"op": "add", "name": " a"}, "no blank"),
        ({"op": "add", "name": ""}, "needs a name"),
        ({"op": "add", "name": 3}, "needs a name"),
        ({"op": "rename", "class_id": 0, "name": "tree"}, "already"),
        ({"op": "rename", "class_id": 9, "name": "x"}, "no open class 9"),
        ({"op": "rename", "class_id": True, "name": "x"}, "no open class True"),
        ({"op": "merge", "class_id": 0, "into": 0}, "into itself"),
        ({"op": "merge", "class_id": 0}, "no open class None"),
        ({"op": "drop"}, "add, rename or merge"),
    ],
)
def test_changes_that_cannot_be_made(wrong, message):
    with pytest.raises(LabelError, match=message):
        Classes(list(CLASSES)).check(wrong)


def test_more_classes_than_ids():
    with pytest.raises(LabelError, match="at most 255"):
        Classes([str(i) for i in range(255)]).check({"op": "add", "name": "one more"})


def test_keys():
    names = [f"c{i}" for i in range(60)]
    keys = assign_keys(names, {"c1": "x"})
    assert keys[0] == "1"
    assert keys[1] == "x"
    assert keys[2] == "2"
    assert len(set(keys.values())) == len(keys) == len(KEYS)
    for asked, message in (
        ({"c1": "o"}, "that key is a command"),
        ({"c1": " "}, "that key is a command"),
        ({"c1": "a", "c2": "a"}, "two classes have that key"),
        ({"c1": "ab"}, "one lower-case letter"),
        ({"c1": "A"}, "one lower-case letter"),
        ({"moon": "a"}, "which is no class"),
    ):
        with pytest.raises(ConfigError, match=message):
            assign_keys(names, asked)


def test_a_class_has_one_colour_everywhere():
    """On the page, and in reports and masks of data that have no colours of their own, however many classes."""
    names = tuple(f"c{i}" for i in range(40))
    shown = [look.color for look in looks(Classes(list(names)))]
    drawn = Data("folder", names, train=None).colors
    assert shown == ["#{:02X}{:02X}{:02X}".format(*color) for color in drawn]
    assert len(set(shown)) == len(names)
    assert (distinct_colors(3) == drawn[:3]).all()  # a class keeps its colour when others are added


def test_every_class_looks_different_and_keeps_its_key():
    shown = looks(Classes([f"c{i}" for i in range(64)]))
    assert len({(one.color, one.pattern) for one in shown}) == 64
    after = looks(Classes([f"c{i}" for i in range(64)], {1: 0}))
    assert after[2].key == shown[2].key
    assert after[1].key is None


def pick(rank: int, index: int = 0) -> Label:
    return Label(f"{index:03d}-{rank:05d}", "a", rank, index, 32, 32, index, rank, 0.5)


def test_a_round_closes_at_the_line_that_answers_its_last_pick():
    rounds = [[pick(0), pick(1)]]
    wrong, last = answer("a", 0, 0, 0), answer("a", 1, 0, 1)
    early = answer("a", 9, 9, 1, kind="spare")
    entries = [early, wrong, retract(wrong), answer("a", 0, 0, 2), last]
    for end in range(len(entries)):
        assert close_round(entries[:end], CLASSES, rounds, []) is None
    closed = close_round(entries, CLASSES, rounds, [])
    assert [label.class_id for label in closed.labels] == [2, 1]
    later = [retract(last), change("add", name="car"), answer("a", 0, 0, 0)]
    after = close_round(entries + later, CLASSES, rounds, [])
    assert after.labels == closed.labels  # what came afterwards changes nothing of it
    assert after.classes.names == list(CLASSES)


def test_corrections_reach_the_next_round():
    first, second = [pick(0), pick(1)], [pick(0, 1)]
    entries = [answer("a", 0, 0, 0), answer("a", 1, 0, 1)]
    trained = close_round(entries, CLASSES, [first], []).labels
    mended = answer("a", 0, 0, 2)
    dropped = retract(entries[1])
    entries += [mended, dropped, change("rename", class_id=0, name="heaven"), answer("a", 0, 1, 0)]
    closed = close_round(entries, CLASSES, [first, second], trained)
    assert [(one.x, one.class_id, one.skipped) for one in closed.corrected] == [(0, 2, False), (1, None, True)]
    assert closed.labels[0].class_name == "heaven"


def test_a_spare_answer_that_is_picked_later_is_used():
    entries = [answer("a", 0, 1, 2, kind="spare"), answer("a", 0, 0, 0)]
    assert close_round(entries, CLASSES, [[pick(0)], [pick(0, 1)]], []).labels[0].class_id == 2


def test_kappa_is_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    import numpy as np

    rng = np.random.default_rng(3)
    for classes in (2, 3, 11):
        first = rng.integers(0, classes, 200)
        second = np.where(rng.random(200) < 0.6, first, rng.integers(0, classes, 200))
        wanted = metrics.cohen_kappa_score(first, second)
        assert cohen_kappa(first.tolist(), second.tolist()) == pytest.approx(wanted, abs=1e-12)
    assert np.isnan(cohen_kappa("aaa", "aaa"))
    assert np.isnan(cohen_kappa([], []))
    with pytest.raises(ValueError, match="same questions, got 1 and 2"):
        cohen_kappa("a", "ab")


def test_two_annotators_and_repeats():
    own = [answer("a", x, 0, x % 3) for x in range(6)]
    other = [answer("a", x, 0, 0, kind="second", annotator="bob") for x in range(6)]
    answers = fold(*own, *other, answer("a", 0, 0, 0, kind="repeat"), answer("a", 1, 0, 0, kind="repeat"))
    found = summary(answers, "ann")
    assert (found["shared"], found["shared_agreed"], found["to_settle"]) == (6, 2, 4)
    assert (found["repeats"], found["repeats_agreed"]) == (2, 1)
    assert found["kappa"] == pytest.approx(0.0)
    answers.add([answer("a", 1, 0, 1, kind="settle")])
    assert ("a", 0, 1) not in disagreements(answers)
    assert len(pairs(answers)) == 6
    assert len(disagreements(answers)) == 3

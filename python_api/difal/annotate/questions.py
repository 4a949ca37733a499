"""What to ask next."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from difal.annotate.agreement import disagreements
from difal.annotate.answers import Answers
from difal.files import derive_seed
from difal.run.labels import Label, Place

REPEAT_AFTER = 10  # answers that lie between a question and its repeat, at least


@dataclass(frozen=True)
class Question:
    """One pixel to ask, and why."""

    kind: str
    place: Place
    height: int
    width: int
    round: int | None = None
    rank: int | None = None


def next_questions(
    answers: Answers,
    picks: Sequence[Label],
    spare: Sequence[Question],
    annotator: str,
    count: int,
    repeats: float = 0.0,
) -> list[Question]:
    """The questions to come.

    The picks of the current round come first, those of an image together; then spare ones. Another annotator than the
    run's is asked what the run's has answered. What two of them disagree about comes back at once.

    Args:
        answers: the journal so far.
        picks: the current round's.
        spare: pixels to ask while the next round is being made.
        annotator: who answers.
        count: how many, at most.
        repeats: share of questions that are asked again later, to see whether the annotator agrees with herself.
    """
    found = [_again("settle", answers, place) for place in disagreements(answers)]
    if answers.owner not in (None, annotator):
        found += [_again("second", answers, place) for place in _unseen_by(annotator, answers)]
    else:
        found += _of_round(answers, picks)
        found += [one for one in spare if answers.current(one.place) is None]
    found.sort(key=lambda one: answers.skipped.get(one.place, 0))  # put off ones last
    once: dict[Place, Question] = {}
    for one in found:  # a spare pixel may have become a pick since it was chosen
        once.setdefault(one.place, one)
    found = list(once.values())
    if repeats and found and (again := _repeat(answers, annotator, repeats)):
        found.insert(0, again)
    return found[:count]


def _of_round(answers: Answers, picks: Sequence[Label]) -> list[Question]:
    """The round's open picks: image after image, as their best ones rank."""
    first_rank: dict[str, int] = {}
    for pick in picks:
        first_rank.setdefault(pick.image, pick.rank)
    open_ = [pick for pick in picks if answers.current(pick.place) is None]
    open_.sort(key=lambda pick: (first_rank[pick.image], pick.rank))
    return [Question("round", p.place, p.height, p.width, p.round, p.rank) for p in open_]


def _again(kind: str, answers: Answers, place: Place) -> Question:
    entry = answers.by_place[place][0]
    return Question(kind, place, entry["height"], entry["width"])


def _unseen_by(annotator: str, answers: Answers) -> list[Place]:
    """Pixels that the owner has answered and `annotator` has not, as the owner's answers came."""
    return [
        place
        for place in answers.by_place
        if answers.current(place) is not None
        and all(entry["annotator"] != annotator for entry in answers.standing(place))
    ]


def _repeat(answers: Answers, annotator: str, share: float) -> Question | None:
    """A question answered some time ago, if one is due; which one follows from the answers, not from the clock."""
    own = [
        (entry["kind"], place)
        for place in answers.by_place
        for entry in answers.standing(place)
        if entry["annotator"] == annotator
    ]
    repeated = {place for kind, place in own if kind == "repeat"}
    asked = list(dict.fromkeys(place for kind, place in own if kind not in ("repeat", "volunteered", "known")))
    old = [place for place in asked[:-REPEAT_AFTER] if place not in repeated]
    if not old or len(repeated) >= share * len(asked):
        return None
    place = random.Random(derive_seed("repeat", len(asked), len(repeated))).choice(old)
    return _again("repeat", answers, place)

"""How far two sets of answers to the same questions agree."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence

from difal.annotate.answers import ASIDE, Answers
from difal.run.labels import Place


def cohen_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float:
    r"""Cohen's kappa, (p_o - p_e) / (1 - p_e): agreement beyond what the two frequencies alone would give.

    Args:
        first: one annotator's answers.
        second: the other's, to the same questions in the same order.

    Returns:
        At most 1; NaN if there is no question, or both gave one and the same answer to all.

    Raises:
        ValueError: the lengths differ.

    References:
        Cohen, "A coefficient of agreement for nominal scales", 1960.

    Example:
        >>> round(cohen_kappa("aabb", "aabc"), 4)
        0.6
    """
    if len(first) != len(second):
        raise ValueError(f"`first` and `second` must answer the same questions, got {len(first)} and {len(second)}")
    count = len(first)
    if not count:
        return math.nan
    agreed = sum(one == other for one, other in zip(first, second, strict=True))
    ours, theirs = Counter(first), Counter(second)
    chance = sum(ours[answer] * theirs[answer] for answer in ours)  # in units of 1 / count^2
    if chance == count * count:
        return math.nan
    return (agreed * count - chance) / (count * count - chance)


def pairs(answers: Answers) -> dict[Place, tuple]:
    """What the owner and another annotator last answered for each pixel that both were asked, before it was settled."""
    found = {}
    for place in answers.by_place:
        standing = [entry for entry in answers.standing(place) if entry["kind"] not in ("settle", "repeat", "known")]
        own = [entry for entry in standing if entry["annotator"] == answers.owner]
        other = [entry for entry in standing if entry["annotator"] != answers.owner]
        if own and other:
            found[place] = answers.outcome(own[-1]), answers.outcome(other[-1])
    return found


def disagreements(answers: Answers) -> list[Place]:
    """Pixels about which two annotators differ and that nobody has settled."""
    return [
        place
        for place, (own, other) in pairs(answers).items()
        if own != other and all(entry["kind"] != "settle" for entry in answers.standing(place))
    ]


def self_pairs(answers: Answers, annotator: str) -> list[tuple]:
    """What an annotator answered at first and when asked again, for each hidden repeat."""
    found = []
    for place in answers.by_place:
        own = [entry for entry in answers.standing(place) if entry["annotator"] == annotator]
        firsts = [entry for entry in own if entry["kind"] not in ASIDE] or [e for e in own if e["kind"] == "second"]
        for again in (entry for entry in own if entry["kind"] == "repeat"):
            if firsts:
                found.append((answers.outcome(firsts[-1]), answers.outcome(again)))
    return found


def summary(answers: Answers, annotator: str) -> dict:
    """What the page and the report show of agreement."""
    both, own = list(pairs(answers).values()), self_pairs(answers, annotator)
    kappa = cohen_kappa(*map(list, zip(*both, strict=True))) if both else math.nan
    return {
        "repeats": len(own),
        "repeats_agreed": sum(first == again for first, again in own),
        "shared": len(both),
        "shared_agreed": sum(first == other for first, other in both),
        "kappa": None if math.isnan(kappa) else round(kappa, 4),
        "to_settle": len(disagreements(answers)),
    }

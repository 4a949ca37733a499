"""`report.html`: what a run did, in one file that needs nothing beside it."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from difal.annotate import agreement
from difal.annotate.answers import Answers
from difal.annotate.journal import read_journal
from difal.annotate.oracle import changed_classes, journal_path
from difal.config import Config
from difal.errors import ConfigError
from difal.files import write_text
from difal.metrics import POLICIES
from difal.report import figures
from difal.run.directory import Round, RunDirectory, classes_at_start
from difal.run.labels import Label, what_is_missing
from difal_kernels._words import counted


def write_report(run: str | Path, out: str | Path | None = None) -> Path:
    """Write the report of a run folder, finished or not.

    Args:
        run: the run folder.
        out: where to write, a file or a folder; default RUN/report.html.

    Returns:
        The path written.

    Raises:
        ConfigError: the folder holds no run, or no round yet.
    """
    run_dir = RunDirectory(Path(run))
    run_dir.config()  # raises ConfigError if this is no run folder
    if not run_dir.begun:
        raise ConfigError(f"{run} has no round yet; go on with `difal run --resume {run}`")
    path = Path(out or run_dir.folder)
    path = path / "report.html" if path.is_dir() else path
    write_text(path, _template().render(context(run_dir)))
    return path


def _template():
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["duration"] = duration
    return environment.get_template("report.html.jinja")


def context(run_dir: RunDirectory) -> dict[str, Any]:
    """Return what the template shows of a run."""
    facts, rounds = run_dir.facts(), run_dir.rounds()
    labels = [label for entry in rounds if entry.has("labels.jsonl") for label in entry.labels()]
    answers = _answers(run_dir, facts)
    open_round = _open_round(rounds, answers)
    if answers is not None and open_round is not None:
        labels += open_round["labels"]
        facts |= changed_classes(answers, facts["colors"])  # which run.json has from the end of the round on
    stale = stale_rounds(run_dir)
    points = [metrics for entry in rounds if entry.index not in stale and (metrics := entry.metrics())]
    stages = _stages(run_dir)
    return {
        "facts": facts,
        "config": Config(**run_dir.config()).to_dict(),
        "rounds": len(rounds),
        "open_round": open_round,
        "stale": [f"round {index}: {why}" for index, why in stale.items()],
        "again": f"difal run --resume {run_dir.folder}",
        "policies": POLICIES,
        "points": points,
        "curve": Markup(figures.learning_curve(points)) if points else "",
        "outlook": outlook(points),
        "missing": _missing(rounds, labels),
        "tiles": _tiles(labels, points, stages),
        "classes": _classes(facts, labels, points[-1]) if points else [],
        "clicks": _clicks(facts, labels) if labels else None,
        "pictures": _pictures(run_dir, labels, stale),
        "annotation": None if answers is None else _annotation(answers),
        "stages": stages,
        "longest": max((one["seconds"] for _, _, one in stages), default=0) or 1,
    }


def stale_rounds(run_dir: RunDirectory) -> dict[int, str]:
    """The rounds of which something was made of other labels, or by another head, than are there now; and why."""
    before, found = run_dir.known(), {}
    for entry in run_dir.rounds():
        if not (entry.has("labels.jsonl") and entry.has("head.safetensors")):
            continue
        if not entry.is_trained_on(run_dir.queried(entry.index + 1, before)):
            found[entry.index] = "its labels are others than its head was trained on"
        elif entry.has("metrics.json") and entry.metrics() is None:
            found[entry.index] = "its test is of another head than is there now"
    return found


def outlook(points: list[dict]) -> str:
    """What more clicks would bring, by the line through the last rounds' mIoU over the logarithm of the labels.

    Half of the rounds, at least three; nothing is said of fewer. A guess, in words that say so.
    """
    recent = points[-max(3, len(points) // 2) :]
    counts = [math.log2(max(1, one["labeled"])) for one in recent]
    if len(recent) < 3 or counts[-1] - counts[0] < 0.1:
        return ""
    slope, _ = statistics.linear_regression(counts, [100 * one["miou"]["standard"] for one in recent])
    if slope < 0.5:
        return "The last rounds brought nothing more: other features, or finer images, would do more than clicks."
    return (
        f"At the pace of the last {len(recent)} rounds, twice as many labels ({2 * points[-1]['labeled']}) would bring "
        f"about {slope:.0f} points of mIoU more; the pace usually falls."
    )


def _missing(rounds: list[Round], labels: list[Label]) -> list[str]:
    """What the last head cannot have learnt; the labels from before the run count in the rounds' tests alone."""
    last = next((entry for entry in reversed(rounds) if entry.has("head.safetensors")), None)
    if last is None:
        return []
    before = RunDirectory(last.folder.parents[1]).known(last.classes)
    return what_is_missing([*before, *(one for one in labels if one.round <= last.index)], last.classes, last.merged)


def _answers(run_dir: RunDirectory, facts: dict) -> Answers | None:
    """What `difal label` recorded; None for other runs."""
    if not journal_path(run_dir.folder).is_file():
        return None
    answers = Answers(classes_at_start(facts) or ())
    answers.add(read_journal(journal_path(run_dir.folder)))
    return answers


def _open_round(rounds: list[Round], answers: Answers | None) -> dict[str, Any] | None:
    """The last round, if its labels are not complete: its number, how many picks it has, and the labels so far."""
    if not rounds or rounds[-1].has("labels.jsonl"):
        return None
    picks = rounds[-1].picks()
    labels = [label for pick in picks if answers and (label := answers.filled(pick)) is not None]
    return {"index": rounds[-1].index, "picks": len(picks), "labels": labels}


def _annotation(answers: Answers) -> dict[str, Any]:
    """The annotators, and the classes that they changed."""
    given = [entry for entries in answers.by_place.values() for entry in entries]
    annotators = []
    for name in dict.fromkeys(entry["annotator"] for entry in given):
        own = [entry for entry in given if entry["annotator"] == name]
        seconds = [entry["seconds"] for entry in own if entry["seconds"] is not None]
        median = f"{statistics.median(seconds):.1f}" if seconds else ""
        annotators.append((name, len(own), sum(entry["kind"] == "volunteered" for entry in own), median))
    names, said = answers.classes.names, []
    for change in answers.changes:
        if change["id"] in answers.retracted:
            continue
        if change["op"] == "add":
            said.append(f"{change['name']} added")
        elif change["op"] == "rename":
            said.append(f"class {change['class_id']} renamed to {change['name']}")
        else:
            said.append(f"{names[change['class_id']]} merged into {names[change['into']]}")
    return {"annotators": annotators, "changes": said, "agreement": agreement.summary(answers, answers.owner or "")}


def _tiles(labels: list[Label], points: list[dict], stages: list[tuple]) -> list[tuple[str, str]]:
    tiles = [("queried pixels", f"{len(labels)}"), ("skipped", f"{sum(label.skipped for label in labels)}")]
    if points:
        tiles.insert(0, ("test mIoU", f"{100 * points[-1]['miou']['standard']:.1f} %"))
        tiles.append(("pixel accuracy", f"{100 * points[-1]['pixel_accuracy']:.1f} %"))
    tiles.append(("queried images", f"{len({label.image for label in labels})}"))
    return [*tiles, ("time", duration(sum(one["seconds"] for _, _, one in stages)))]


def _classes(facts: dict, labels: list[Label], last: dict) -> list[dict[str, Any]]:
    """Each class with its share of the test pixels, its clicks and its IoU."""
    clicks = Counter(label.class_id for label in labels)
    pixels = [sum(row) for row in last["confusion"]]
    return [
        {
            "name": name,
            "color": "rgb({}, {}, {})".format(*facts["colors"][i]),
            "share": pixels[i] / max(1, sum(pixels)),
            "clicks": clicks[i],
            "iou": iou,
            "labeled": name not in last.get("unlabeled", ()),
        }
        for i, (name, iou) in enumerate(zip(facts["classes"], last["class_iou"], strict=False))
    ]


def _clicks(facts: dict, labels: list[Label]) -> dict[str, str]:
    per_image = Counter(Counter(label.image for label in labels).values())
    never = facts["images"] - sum(per_image.values())
    text = ", ".join(f"{counted(images, 'image')} {counted(n, 'time')}" for n, images in sorted(per_image.items()))
    return {
        "note": f"Queried: {text}" + (f", {never} never" if never else "") + ". Grey: skipped, no class fits.",
        "by_round": Markup(figures.clicks_by_round(labels, facts["classes"], facts["colors"])),
        "positions": Markup(figures.click_positions(labels, facts["colors"])),
    }


def _pictures(run_dir: RunDirectory, labels: list[Label], stale: dict[int, str]) -> list[dict[str, Any]]:
    """The drawn images of the last round that has any, but those by a head that is not there any more."""
    found = sorted((run_dir.folder / "pictures").glob("*.safetensors"))
    newest = found[-1].name.split("-")[0] if found else ""
    last, colors = len(run_dir.rounds()) - 1, run_dir.facts()["colors"]
    pictures = []
    for path in found:
        if path.name.startswith(newest):
            maps, name, head_round, head = figures.read_picture(path)
            if int(head_round) in stale or head not in (None, run_dir.round(int(head_round)).head_digest()):
                continue
            here = [label for label in labels if label.image == name]
            row = figures.picture_row(maps, here, colors, last)
            pictures.append({"image": name, "head_round": head_round, "earlier": int(head_round) < last, "row": row})
    return pictures


def _stages(run_dir: RunDirectory) -> list[tuple[str, str, dict]]:
    """(part, stage, {"seconds", "peak_bytes"}), the rounds' stages added up."""
    features = run_dir.facts().get("feature_stages", {})
    rows = [
        (f"features, {part}", stage, one) for part in ("pool", "test") for stage, one in features.get(part, {}).items()
    ]
    totals: dict[str, dict] = {}
    for entry in run_dir.rounds():
        for stage, one in entry.stages().items():
            total = totals.setdefault(stage, {"seconds": 0.0, "peak_bytes": 0})
            total["seconds"] += one["seconds"]
            total["peak_bytes"] = max(total["peak_bytes"], one["peak_bytes"])
    return rows + [("rounds", stage, one) for stage, one in totals.items()]


def duration(seconds: float) -> str:
    """Write a time span in the unit that suits it."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"

"""`report.html`: what a run did, in one file that needs nothing beside it."""

from __future__ import annotations

from collections import Counter
from html import escape
from pathlib import Path

from difal.config import Config
from difal.errors import ConfigError
from difal.files import write_text
from difal.metrics import POLICIES
from difal.report import figures
from difal.run.directory import Round, RunDirectory

CSS = """
:root { color-scheme: light; --ink: #1c2330; --soft: #667085; --line: #e4e7ec; --paper: #fff; --accent: #2f6fde; }
* { box-sizing: border-box; }
body { margin: 0; background: #f5f6f8; color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 27px; margin: 0 0 4px; } h2 { font-size: 19px; margin: 0 0 4px; } p { margin: 4px 0 12px; }
.soft { color: var(--soft); } section { background: var(--paper); border: 1px solid var(--line); border-radius: 10px;
  padding: 20px 24px; margin: 18px 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 18px 0; }
.tile { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 12px 16px; }
.tile b { display: block; font-size: 24px; line-height: 1.25; } .tile span { color: var(--soft); font-size: 13px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--soft); font-size: 13px; }
th, td { padding: 5px 10px 5px 0; border-bottom: 1px solid var(--line); } td.n, th.n { text-align: right; }
tfoot td { font-weight: 600; } .swatch { display: inline-block; width: 11px; height: 11px; border-radius: 3px;
  margin-right: 7px; vertical-align: -1px; } .bar { height: 9px; border-radius: 2px; }
td.wide { width: 34%; } svg, img { max-width: 100%; height: auto; display: block; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(280px, 1fr)); gap: 12px; margin: 6px 0 22px; }
figure { margin: 0; } figcaption { font-size: 13px; color: var(--soft); padding-top: 3px; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)); gap: 20px; }
code { background: #f0f2f5; border-radius: 4px; padding: 1px 5px; font-size: 13px; }
"""


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
    run_dir.config()  # or a message that says what is missing
    if not run_dir.begun:
        raise ConfigError(f"{run} has no round yet; go on with `difal run --resume {run}`")
    path = Path(out or run_dir.folder)
    path = path / "report.html" if path.is_dir() else path
    write_text(path, Report(run_dir).html())
    return path


class Report:
    """One run, read once, as HTML."""

    def __init__(self, run_dir: RunDirectory):
        self.run_dir, self.config, self.facts = run_dir, Config(**run_dir.config()).to_dict(), run_dir.facts()
        self.rounds: list[Round] = run_dir.rounds()
        self.classes, self.colors = self.facts["classes"], self.facts["colors"]
        self.metrics = [entry.metrics() for entry in self.rounds]
        self.labels = [label for entry in self.rounds if entry.has("labels.jsonl") for label in entry.labels()]

    def html(self) -> str:
        title = f"{self.facts['data']}: {self.config['acquisition']}"
        parts = [self.head(), self.tiles(), self.curve(), self.class_table(), self.clicks(), self.pictures()]
        body = "\n".join([*parts, self.stages(), self.settings()])
        return (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(title)}</title>'
            f"<style>{CSS}</style></head>\n<body><main>\n{body}\n</main></body></html>\n"
        )

    def head(self) -> str:
        facts, config = self.facts, self.config
        return (
            f"<h1>{escape(facts['data'])}, {escape(config['acquisition'])}</h1>"
            f'<p class="soft">{len(self.rounds)} of {config["rounds"]} rounds, {facts["budget"]} pixels each, '
            f"{facts['images']} pool images, {facts['test_images']} test images, encoder "
            f"<code>{escape(config['encoder'])}</code> with {facts.get('dimension', '?')} numbers a pixel, "
            f"seed {config['seed']}, difal {escape(facts['version'])}</p>"
        )

    def tiles(self) -> str:
        skipped = sum(label.skipped for label in self.labels)
        tiles = [("queried pixels", f"{len(self.labels)}"), ("skipped", f"{skipped}")]
        if last := self.last_metrics():
            tiles.insert(0, ("test mIoU", f"{100 * last['miou']['standard']:.1f} %"))
            tiles.append(("pixel accuracy", f"{100 * last['pixel_accuracy']:.1f} %"))
        tiles.append(("queried images", f"{len({label.image for label in self.labels})}"))
        tiles.append(("time", _duration(sum(entry["seconds"] for _, _, entry in self.stage_rows()))))
        return (
            '<div class="tiles">'
            + "".join(f'<div class="tile"><b>{v}</b><span>{k}</span></div>' for k, v in tiles)
            + "</div>"
        )

    def last_metrics(self) -> dict | None:
        return next((one for one in reversed(self.metrics) if one), None)

    def curve(self) -> str:
        points = [one for one in self.metrics if one]
        if not points:
            return _section("Learning curve", "There is no test set with masks, so nothing was measured.", "")
        rows = [
            [one["round"], one["queried"], one["labeled"]]
            + [f"{100 * value:.2f}" for value in (*(one["miou"][policy] for policy in POLICIES), one["pixel_accuracy"])]
            for one in points
        ]
        heads = ["round", "queried:n", "labeled:n", *(f"mIoU {policy}, %:n" for policy in POLICIES), "accuracy, %:n"]
        notes = "; ".join(f"<b>{name}</b>: {text}" for name, text in POLICIES.items())
        content = figures.learning_curve(points) + _table(heads, rows)
        return _section("Learning curve", f"On {points[-1]['test_pixels']:,} test pixels. {notes}.", content)

    def class_table(self) -> str:
        last = self.last_metrics()
        if not last:
            return ""
        clicks = Counter(label.class_id for label in self.labels)
        truth = [sum(row) for row in last["confusion"]]
        rows = []
        for i, (name, iou) in enumerate(zip(self.classes, last["class_iou"], strict=True)):
            share = f"{100 * truth[i] / max(1, sum(truth)):.2f}"
            value = "absent" if iou is None else f"{100 * iou:.1f}"
            color = "rgb({}, {}, {})".format(*self.colors[i])
            swatch = f'<span class="swatch" style="background:{color}"></span>'
            rows.append([swatch + escape(name), share, clicks[i], value, _bar(iou or 0, color)])
        means = [[f"mean, {policy}", "", "", f"{100 * last['miou'][policy]:.1f}", ""] for policy in POLICIES]
        table = _table(["class", "% of test pixels:n", "clicks:n", "IoU, %:n", ":wide"], rows, means)
        return _section("Classes", f"After round {last['round']}. Both means of the same IoUs.", table)

    def clicks(self) -> str:
        if not self.labels:
            return _section("Where the clicks went", "No pixel is labeled yet.", "")
        by_round = figures.clicks_by_round(self.labels, self.classes, self.colors)
        where = figures.click_places(self.labels, self.colors)
        per_image = Counter(Counter(label.image for label in self.labels).values())
        never = self.facts["images"] - sum(per_image.values())
        text = ", ".join(f"{_count(images, 'image')} {_count(n, 'time')}" for n, images in sorted(per_image.items()))
        note = f"Asked about: {text}" + (f", {never} never" if never else "") + ". Grey: skipped, no class fits."
        return _section(
            "Where the clicks went", note, f'<div class="pair"><div>{by_round}</div><div>{where}</div></div>'
        )

    def pictures(self) -> str:
        found = sorted((self.run_dir.folder / "pictures").glob("*.safetensors"))
        if not found:
            return ""
        newest = found[-1].name.split("-")[0]
        blocks = []
        for path in found:
            if not path.name.startswith(newest):
                continue
            maps, name, index = figures.read_picture(path)
            here = [label for label in self.labels if label.image == name]
            shown = figures.picture_row(maps, here, self.colors, len(self.rounds) - 1)
            cells = "".join(
                f'<figure><img src="{src}" alt="{text}"><figcaption>{text}</figcaption></figure>' for text, src in shown
            )
            blocks.append(f'<p><code>{escape(name)}</code></p><div class="pictures">{cells}</div>')
        note = (
            f"Pool images of the last round. Rings: queried pixels, coloured by class; white rim: last round. "
            f"Maps by the head of round {index}, on which the last picks rested where there is a later round: "
            f"eDALD = entropy + DALD, bright is high."
        )
        return _section("Pictures", note, "".join(blocks))

    def stage_rows(self) -> list[tuple[str, str, dict]]:
        """(part, stage, {"seconds", "peak_bytes"}), the rounds' stages added up."""
        rows = []
        for part, name in (("pool", "features, pool"), ("test", "features, test")):
            rows += [
                (name, stage, entry) for stage, entry in self.facts.get("feature_stages", {}).get(part, {}).items()
            ]
        totals: dict[str, dict] = {}
        for entry in self.rounds:
            for stage, one in entry.stages().items():
                total = totals.setdefault(stage, {"seconds": 0.0, "peak_bytes": 0})
                total["seconds"] += one["seconds"]
                total["peak_bytes"] = max(total["peak_bytes"], one["peak_bytes"])
        return rows + [("rounds", stage, entry) for stage, entry in totals.items()]

    def stages(self) -> str:
        found = self.stage_rows()
        most = max((entry["seconds"] for _, _, entry in found), default=0) or 1
        rows = [
            [
                part,
                escape(stage),
                _duration(one["seconds"]),
                _bar(one["seconds"] / most),
                f"{one['peak_bytes'] / 1e9:.2f} GB",
            ]
            for part, stage, one in found
        ]
        note = (
            "The features are computed once and shared by all runs with the same --cache; rounds read them from disk."
        )
        table = _table(["part", "stage", "time:n", ":wide", "peak memory so far:n"], rows)
        return _section("Time and memory", note, table)

    def settings(self) -> str:
        rows = "".join(f"<tr><td><code>{k}</code></td><td>{escape(str(v))}</td></tr>" for k, v in self.config.items())
        return f"<section><details><summary>Settings</summary><table>{rows}</table></details></section>"


def _section(title: str, note: str, content: str) -> str:
    return f'<section><h2>{title}</h2><p class="soft">{note}</p>{content}</section>'


def _table(heads: list[str], rows: list[list], feet: list[list] = ()) -> str:
    """A head is its text and, after a colon, its column's kind: n for numbers, wide for bars."""
    kinds = [head.partition(":")[2] for head in heads]

    def line(cells, tag="td"):
        return "<tr>" + "".join(f'<{tag} class="{k}">{c}</{tag}>' for c, k in zip(cells, kinds, strict=True)) + "</tr>"

    head = line([head.partition(":")[0] for head in heads], "th")
    body, foot = ("".join(map(line, part)) for part in (rows, feet))
    return f"<table><thead>{head}</thead><tbody>{body}</tbody><tfoot>{foot}</tfoot></table>"


def _bar(share: float, color: str = "var(--accent)") -> str:
    return f'<div class="bar" style="width:{100 * share:.1f}%;background:{color}"></div>'


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + "s" * (number != 1)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"

"""The pictures of a report, as inline SVG and data URLs."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from safetensors import safe_open

from difal.metrics import POLICIES
from difal.run.labels import Label
from difal.run.oracles import to_png

SKIPPED = "#b6bcc6"
SHOWN = 384  # pixels, the longer side of a picture in the report


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    with rc_context({"svg.hashsalt": "difal"}):  # the same run gives the same file
        FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def _axes(width: float, height: float):
    figure = Figure((width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#98a2b3")
    axes.tick_params(colors="#475467", labelsize=9)
    axes.grid(axis="y", color="#e4e7ec", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def learning_curve(points: Sequence[dict]) -> str:
    """mIoU by the number of queried pixels, one line a policy."""
    figure, axes = _axes(9.6, 3.4)
    queried = [one["queried"] for one in points]
    for policy, color, line in zip(POLICIES, ("#2f6fde", "#e0803a"), ("-", "--"), strict=True):
        values = [100 * one["miou"][policy] for one in points]
        axes.plot(queried, values, line, color=color, marker="o", markersize=5, linewidth=2, label=policy)
        if policy == "standard":
            axes.annotate(
                f"{values[-1]:.1f}", (queried[-1], values[-1]), (0, 8), textcoords="offset points", ha="center"
            )
    top = max(100 * one["miou"][policy] for one in points for policy in POLICIES)
    axes.set(xlabel="queried pixels", ylabel="test mIoU, %", ylim=(0, max(1.0, 1.15 * top)))
    axes.legend(frameon=False, loc="lower right", title="absent classes", title_fontsize=9, fontsize=9)
    return _svg(figure)


def _color(colors: Sequence, class_id: int | None):
    return SKIPPED if class_id is None else tuple(c / 255 for c in colors[class_id])


def clicks_by_round(labels: Sequence[Label], classes: Sequence[str], colors: Sequence) -> str:
    """Stacked bars: the classes of each round's pixels."""
    figure, axes = _axes(5.2, 3.6)
    rounds = sorted({label.round for label in labels})
    counts = Counter((label.round, label.class_id) for label in labels)
    base = np.zeros(len(rounds))
    for class_id in [*range(len(classes)), None]:
        heights = np.array([counts[r, class_id] for r in rounds])
        if heights.any():
            name = "skipped" if class_id is None else classes[class_id]
            axes.bar(
                rounds,
                heights,
                0.75,
                base,
                color=_color(colors, class_id),
                edgecolor="white",
                linewidth=0.6,
                label=name,
            )
            base += heights
    axes.set(xlabel="round", ylabel="pixels", xticks=rounds)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return _svg(figure)


def click_positions(labels: Sequence[Label], colors: Sequence) -> str:
    """Every queried pixel, at its position in its image."""
    figure, axes = _axes(4.4, 3.6)
    x = [(label.x + 0.5) / label.width for label in labels]
    y = [(label.y + 0.5) / label.height for label in labels]
    shade = [_color(colors, label.class_id) for label in labels]
    axes.scatter(x, y, s=26, c=shade, edgecolors="#1c2330", linewidths=0.5)
    axes.set(xlim=(0, 1), ylim=(1, 0), xticks=[], yticks=[], xlabel="position in the image", aspect="equal")
    axes.spines[["top", "right"]].set(visible=True, color="#98a2b3")
    return _svg(figure)


def read_picture(path: Path) -> tuple[dict[str, np.ndarray], str, str, str | None]:
    """The maps of a file of `difal.run.pictures`, the image's name, the round of the head, and the head's digest."""
    with safe_open(path, "np") as file:
        facts = file.metadata()
        return {name: file.get_tensor(name) for name in file.keys()}, facts["name"], facts["round"], facts.get("head")  # noqa: SIM118


def picture_row(
    maps: dict[str, np.ndarray], labels: Sequence[Label], colors: Sequence, last: int
) -> list[tuple[str, str]]:
    """(caption, data URL) of the image with its picks, prediction, truth if known, eDALD, entropy and DALD."""
    palette = np.array([*colors, *[[255, 255, 255]] * (256 - len(colors))], np.uint8)
    row = [
        ("picks", _with_picks(maps["image"], labels, colors, last)),
        ("prediction", Image.fromarray(palette[maps["prediction"]])),
    ]
    if "mask" in maps:
        row.append(("truth (white: void)", Image.fromarray(palette[maps["mask"]])))
    for name, text in (("edald", "eDALD"), ("entropy", "entropy"), ("dald", "DALD")):
        values = maps[name].astype(np.float32)
        top = max(float(np.quantile(values, 0.995)), 1e-6)
        shaded = colormaps["inferno"](np.clip(values / top, 0, 1))[..., :3]
        picture = Image.fromarray((255 * shaded).astype(np.uint8))
        if name == "edald":
            picture = _with_picks(np.asarray(picture), labels, colors, last)
        row.append((f"{text}, 0 to {top:.2g} nats", picture))
    return [(caption, _data_url(_shown(picture))) for caption, picture in row]


def _shown(picture: Image.Image) -> Image.Image:
    scale = SHOWN / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    size = (width, height)
    return (
        picture
        if size == picture.size
        else picture.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST)
    )


def _with_picks(image: np.ndarray, labels: Sequence[Label], colors: Sequence, last: int) -> Image.Image:
    picture = _shown(Image.fromarray(image)).copy()
    draw = ImageDraw.Draw(picture)
    for label in labels:
        x = (label.x + 0.5) / label.width * picture.width
        y = (label.y + 0.5) / label.height * picture.height
        fill = SKIPPED if label.class_id is None else tuple(colors[label.class_id])
        for radius, color in ((8, "white" if label.round == last else "black"), (6, fill)):
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)
        draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill="black")
    return picture


def _data_url(picture: Image.Image) -> str:
    return "data:image/png;base64," + base64.b64encode(to_png(picture)).decode()

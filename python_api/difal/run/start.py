"""What is settled before a run folder is made or gone on with: the pool in the run's order, the budget, the encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from difal.acquisition import pixels_of
from difal.config import Config
from difal.data import Data, open_config_data
from difal.data.base import FileSplit
from difal.data.contents import Contents
from difal.data.images import ValueRanges
from difal.data.survey import Survey, survey
from difal.encoders.lazy import LazyEncoder
from difal.errors import ConfigError, DataError
from difal.features.cache import settings_file
from difal.features.checks import check_encoder, check_smallest
from difal.features.compute import SURVEY
from difal.files import digest
from difal.run.directory import RunDirectory, classes_at_start
from difal.run.known import known_labels

ANEW = "start another run with another --out, and with --labels RUN, by which it keeps this run's labels"
QUERIES, ENCODER = "queries: ", "encoder: "
FEW = "; fewer a round than classes: a larger --budget, pixels an image and round, asks more"


def open_run_data(config: Config, run_dir: RunDirectory) -> Data:
    """The data of a run that is gone on with, in its order; or of one that is to begin.

    Raises:
        DataError: they are not where they were; says how to name their new place.
    """
    if run_dir.exists and config.data and not _is_made(config.data) and not Path(config.data).exists():
        raise DataError(
            f"the images of this run were in {config.data}, and are not there any more; give --data with the folder "
            f"where they are now"
        )
    data = open_config_data(config)
    if run_dir.begun:
        in_the_runs_order(run_dir.facts(), data)
    return data


def _is_made(data: str) -> bool:
    """Whether data are drawn and not read."""
    return data.partition(":")[0] == "scenes"


def settle(config: Config, data: Data, run_dir: RunDirectory, load_encoder: LazyEncoder) -> Survey:
    """Look at the data, the budget and the encoder; nothing is written. For rank 0.

    Raises:
        ConfigError: the budget cannot be queried, the encoder fails.
        DataError: an image or a mask cannot be used.
    """
    _ = load_encoder.weights  # an encoder that is not there is reported first
    if config.oracle == "masks" and not data.train.has_masks:
        raise DataError(f"{config.data} has no masks for the pool; add them, or use --oracle person")
    if config.labels and not run_dir.begun:
        known_labels(Path(config.labels), data)
    features = Path(config.cache) if config.cache else run_dir.feature_folder()
    found = survey(data, config.mask_check, features / SURVEY)
    lines = [line for line in found.lines if not line.startswith((QUERIES, ENCODER))]  # of earlier settings
    queries = check_budget(config, len(data.train), found.shapes)
    if not settings_file(features / "pool").is_file():
        lines += check_encoder(config, data.train, load_encoder, found.shapes)
    few = config.round_budget(len(data.train)) < len(data.classes)
    found.lines = [*lines, queries + FEW * few]
    return found


def check_classes(facts: dict, data: Data) -> None:
    """Labels name classes by their position in the list: it may grow at its end, and change in no other way."""
    before, now = classes_at_start(facts), list(data.classes)
    changed = now != before if "classes_at_start" in facts else before is not None and now[: len(before)] != before
    if changed:
        raise ConfigError(
            f"the classes were {', '.join(before or ())} when the run began and are {', '.join(now)} now; put them "
            f"back, add new ones after the last, or {ANEW}"
        )


def check_several(classes: Sequence[str]) -> None:
    """Raise ConfigError where a run would begin with one class: a model has nothing to tell it from."""
    if len(classes) == 1:
        raise ConfigError(
            f"a model tells classes apart, and {classes[0]!r} is the only one; name what else there is, too, such as "
            f"{classes[0]},other"
        )


def check_unchanged(facts: dict, data: Data, load_encoder: LazyEncoder) -> None:
    """Compare what an earlier run rests on with what there is now; a pool that grew is put in the run's order.

    Raises:
        ConfigError: another encoder, classes that are not the same with new ones after them, an image that is gone.
    """
    check_weights(facts, load_encoder)
    check_classes(facts, data)
    in_the_runs_order(facts, data)


def check_weights(facts: dict, load_encoder: LazyEncoder) -> None:
    """Raise ConfigError where the encoder is another than when the first pixels were chosen."""
    before, now = facts.get("weights"), load_encoder.weights
    if before not in (None, now):
        raise ConfigError(
            f"the encoder {load_encoder.config.encoder!r} has other weights than when the run began (digest {now}, was "
            f"{before}); put the old ones back, or {ANEW}"
        )


def ranges_of(data: Data) -> dict[str, list[float]]:
    """The values of each kind of deep image that are black and white, as the run keeps them."""
    ranges = data.train.ranges
    return ranges.to_json() if isinstance(ranges, ValueRanges) else {}


def pool_files(data: Data, files: dict[str, Contents]) -> list[list] | None:
    """Name, bytes and, where `files` of a survey say it, digest of each image of a pool of files."""
    if not isinstance(data.train, FileSplit):
        return None
    known = files.get("pool", {})
    sizes = zip(data.train.ids, data.train.file_sizes(), strict=True)
    return [[name, size, *known.get(name, [])[2:]] for name, size in sizes]


def check_contents(facts: dict, files: dict[str, Contents]) -> None:
    """Raise ConfigError where an image that the run knows has other bytes than when the run began."""
    known = files.get("pool", {})
    for name, _, *before in facts.get("pool_files") or ():
        if before and name in known and known[name][2] != before[0]:
            raise ConfigError(_changed(f"{name} holds other bytes"))


def in_the_runs_order(facts: dict, data: Data) -> None:
    """Put the pool's images in the order in which the run knows them, new ones last; and scale deep ones as it did.

    Raises:
        ConfigError: an image that the run knows is gone or has another size.
    """
    before = facts.get("pool_files")
    if before is None or not isinstance(data.train, FileSplit):
        if facts.get("pool") not in (None, digest(data.train.fingerprint())):
            raise ConfigError(_changed(f"{facts['images']} images then, {len(data.train)} now"))
        return
    place = {name: i for i, name in enumerate(data.train.ids)}
    sizes = data.train.file_sizes()
    for name, size, *_ in before:
        if name not in place:
            raise ConfigError(_changed(f"{name} is not there any more"))
        if sizes[place[name]] != size:
            raise ConfigError(_changed(f"{name} had {size} bytes and has {sizes[place[name]]}"))
    known = {name for name, *_ in before}
    order = [place[name] for name, *_ in before] + [i for i, name in enumerate(data.train.ids) if name not in known]
    data.train = data.train.take(order)
    data.train.ranges = ValueRanges(data.train.images, facts.get("ranges"))
    if data.test is not None:
        data.test.ranges = data.train.ranges


def _changed(what: str) -> str:
    return (
        f"the pool has changed since the run began ({what}; names and contents count): put it back as it was, or {ANEW}"
    )


def check_budget(config: Config, images: int, shapes: Sequence[tuple[int, int]] = ()) -> str:
    """A line that says how many queries the rounds make.

    Raises:
        ConfigError: there are not as many pixels to choose among; says what to give.
    """
    wanted, most = _queries(config, images)
    if wanted > most:
        name = pixels_of(config.acquisition)
        needed = -(-wanted // max(1, round(config.share * images)))
        candidates = f" --candidates {needed}" if needed > config.candidates else ""
        raise ConfigError(
            f"{config.rounds} rounds x {config.round_budget(images)} = {wanted} pixels are to be asked, but only "
            f"{most} can be: {getattr(config, name)} are kept of each image (--{name}). Give --{name} "
            f"{needed}{candidates}, or fewer --rounds, or a smaller --budget"
        )
    check_smallest(config, shapes)
    return budget_line(config, images)


def budget_line(config: Config, images: int) -> str:
    """A line that says how many queries the rounds make, and how many they can at most."""
    name = pixels_of(config.acquisition)
    wanted, most = _queries(config, images)
    what = f"{config.rounds} rounds x {config.round_budget(images)} = {wanted} pixels"
    return f"{QUERIES}{what}, of at most {most} ({getattr(config, name)} kept of each image, --{name})"


def _queries(config: Config, images: int) -> tuple[int, int]:
    """How many pixels the rounds are to ask, and how many there are to choose among."""
    kept = getattr(config, pixels_of(config.acquisition))
    return config.rounds * config.round_budget(images), max(1, round(config.share * kept * images))

"""Every setting of a run in one dataclass; the YAML file and the command line are made from it."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import types
import typing
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from difal.earlier_names import moved
from difal.errors import ConfigError
from difal_kernels.ops.maxherding.kernel_functions import OF_FEATURES

KERNELS = tuple(name for name in OF_FEATURES if name != "tophat")
ENCODER_PIXELS = 1 << 22  # such as 2048 x 2048; what a network keeps of a pixel is hundreds of numbers
# Earlier names of settings. Run folders, caches and YAML files that have them are still read.
RENAMED = {"bank": "cache", "bank_seed": "feature_seed", "bank_dtype": "cache_dtype", "draws": "noise_samples"}
# A finished or waiting run may be taken up again with other values of these; the rest must stay as they were.
MAY_CHANGE = frozenset(
    {"rounds", "threads", "device", "batch", "test_cache_gb", "maps_gb", "herding", "mask_check", "image_prefix"}
    | {"data", "classes", "encoder", "mask_values"}  # which are checked against what the run rests on
)


def _option(default: Any, group: str, text: str, **more: Any) -> Any:
    return field(default=default, metadata={"group": group, "help": text, **more})


@dataclass
class Config:
    """Settings of `difal run`; see each field's help."""

    data: str = _option("", "what", "folder of images (see `difal run --help`), or `scenes[:TRAIN,TEST,SEED]`")
    encoder: str = _option(
        "efficientnet-lite0", "what", "`efficientnet-lite0`, `tiny` (diffusion), timm/NETWORK, a folder, or a hub id"
    )
    out: str = _option("", "what", "run folder [runs/DATA-ACQUISITION-seedN]")
    acquisition: str = _option("bait-then-herding", "what", "how pixels are chosen; see `difal acquisitions`")
    seed: int = _option(0, "what", "seed of the heads and of random choices", low=0)
    rounds: int = _option(10, "budget", "rounds of labeling", low=1)
    budget: float = _option(0.1, "budget", "pixels per image and round; a round queries round(budget x images)")
    labels: str | None = _option(None, "budget", "label file (JSONL or CSV), or run folder, known before round 0")
    oracle: str = _option(
        "auto",
        "budget",
        "`masks`, `person` (stop each round for labels), `auto`: masks if there are",
        choices=("auto", "masks", "person"),
    )
    image_prefix: str = _option(
        "", "budget", "what comes before an image's name in its address in Label Studio's tasks, such as http://HOST/"
    )
    size: int | None = _option(None, "data", "resize images to SIZE x SIZE pixels [as they are]", low=8)
    classes: str | None = _option(None, "data", "comma-separated class names, where the data folder has none")
    mask_values: str | None = _option(
        None, "data", "value (or colour #rrggbb) of each class in the masks, such as `0,255` [class ids from 0]"
    )
    mask_check: str = _option(
        "stop",
        "data",
        "masks that lack a class you named, or are mostly void: `stop`, or `accept` them",
        choices=("stop", "accept"),
    )
    encoder_pixels: int = _option(
        ENCODER_PIXELS,
        "data",
        "most pixels that the encoder gets of an image; larger ones are reduced for it by a whole number; 0: any",
        low=0,
    )
    limit: int | None = _option(None, "data", "use only the first LIMIT pool and test images", low=1)
    candidates: int = _option(4_000, "stage 1", "random candidate pixels per image", low=1)
    local: int = _option(50, "stage 1", "pixels that local MaxHerding keeps per image", low=1)
    keep: float = _option(0.5, "stage 1", "share of the local picks that global MaxHerding keeps")
    void: str = _option(
        "ask",
        "stage 1",
        "`avoid`: candidates are never void in the pool's masks, as in the released code; it reads the ground truth",
        choices=("ask", "avoid"),
    )
    skips: str = _option(
        "avoid",
        "stage 1",
        "`avoid`: leave out pixels that are rather skipped than answered, by what was skipped so far; `ask`: any pixel",
        choices=("avoid", "ask"),
    )
    kernel: str = _option("rbf", "stage 1", "similarity of two features", choices=KERNELS)
    noise_samples: int = _option(5, "stage 2", "noise samples K behind DALD; passes of MC dropout behind BALD", low=1)
    dropout: float = _option(0.2, "stage 2", "dropout on the class scores, for acquisitions that read MC dropout")
    edald_weight: float = _option(1.0, "stage 2", "weight of DALD against the entropy", low=0)
    compat: str = _option(
        "none",
        "stage 2",
        "`released`: eDALD as the paper's released code computes it, probabilities in place of their logarithms",
        choices=("none", "released"),
    )
    radius: float | None = _option(
        None, "stage 2", "of ProbCover's balls, in feature units [95 % of them hold one k-means cluster]"
    )
    random: int = _option(64, "cache", "random pixels kept per image: BatchNorm context, stage-2-alone pool", low=1)
    cache: str | None = _option(None, "cache", "folder of the features, shared by runs [OUT/cache]")
    feature_seed: int = _option(0, "cache", "seed of the candidates and of the noise", low=0)
    share: float = _option(1.0, "cache", "share of the cache's pixels, drawn by the seed, that this run may query")
    cache_dtype: str = _option("float16", "cache", "number format on disk", choices=("float16", "float32"))
    test_cache_gb: float = _option(
        8.0, "cache", "largest test-set cache; above it all heads are tested in one late pass", low=0
    )
    maps_gb: float = _option(
        2.0, "cache", "`difal label`: most gigabytes of feature maps kept, by which a new head is soon shown", low=0
    )
    test_pixels: int | None = _option(
        None, "cache", "test on this many random pixels of each image, ten times faster [every pixel]", low=1
    )
    head: str = _option("linear", "head", "`linear`: balanced logistic regression; `mlp`: the paper's, by Adam")
    penalty: float = _option(100.0, "head", "linear: weight of the squared norm beside the loss of all labels", low=0)
    lift: float = _option(
        0.5, "head", "linear: how far classes that it would predict rarely are lifted, from 0, not, to 1", low=0, high=1
    )
    hidden: str = _option("auto", "head", "mlp: widths of the hidden layers, such as `128,32` [by the class count]")
    epochs: int = _option(50, "head", "mlp: passes over the labeled pixels", low=1)
    learning_rate: float = _option(1e-3, "head", "mlp: Adam step")
    weight_decay: float = _option(1e-5, "head", "mlp: Adam weight decay", low=0)
    head_batch: int = _option(64, "head", "mlp: labeled pixels per step", low=1)
    context: int = _option(64, "head", "mlp: unlabeled pixels per step that BatchNorm sees besides", low=0)
    pictures: int = _option(4, "report", "pool images drawn in the report", low=0)
    threads: int = _option(0, "machine", "CPU threads, 0 for torch's choice", low=0)
    device: str = _option("cpu", "machine", "torch device of encoder and head")
    batch: int = _option(4, "machine", "noise samples held at a time; on a GPU one UNet pass", low=1)
    herding: str = _option(
        "auto",
        "machine",
        "global MaxHerding in `one` process, or `sharded` over torchrun's ranks, with the same picks; `auto`: sharded "
        "where the memory of one does not hold the local picks' features",
        choices=("auto", "one", "sharded"),
    )

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = _typed(getattr(self, item.name), item.name)
            setattr(self, item.name, value)
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"`{item.name}` must be finite, got {value}")
            low, high, choices = (item.metadata.get(key) for key in ("low", "high", "choices"))
            if value is not None and ((low is not None and value < low) or (high is not None and value > high)):
                most = "" if high is None else f" and at most {high}"
                raise ConfigError(f"`{item.name}` must be at least {low}{most}, got {value}")
            if choices and value not in choices:
                raise ConfigError(f"`{item.name}` must be one of {', '.join(choices)}, got {value!r}")
        for name, low, high in (
            ("budget", 0.0, float("inf")),
            ("keep", 0.0, 1.0),
            ("share", 0.0, 1.0),
            ("learning_rate", 0.0, float("inf")),
            ("radius", 0.0, float("inf")),
        ):
            if getattr(self, name) is not None and not low < getattr(self, name) <= high:
                most = "" if math.isinf(high) else f" and at most {high:g}"
                raise ConfigError(f"`{name}` must be above {low:g}{most}, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"`dropout` must be at least 0 and below 1, got {self.dropout}")
        if self.local > self.candidates:
            raise ConfigError(f"`local` must be at most `candidates` ({self.candidates}), got {self.local}")
        if self.random > self.candidates:
            raise ConfigError(f"`random` must be at most `candidates` ({self.candidates}), got {self.random}")
        if self.head_batch + self.context < 2:
            raise ConfigError("`head_batch` + `context` must be at least 2: BatchNorm needs two rows")
        self.hidden_widths(2)

    def hidden_widths(self, classes: int) -> tuple[int, int]:
        """The head's hidden widths: 128, 32, or 256, 128 from 30 classes on, unless given."""
        if self.hidden == "auto":
            return (256, 128) if classes >= 30 else (128, 32)
        try:
            first, second = (int(word) for word in self.hidden.split(","))
        except ValueError:
            first = second = 0
        if first < 1 or second < 1:
            raise ConfigError(f"`hidden` must be `auto` or two positive widths such as 128,32, got {self.hidden!r}")
        return first, second

    def class_names(self) -> tuple[str, ...] | None:
        return None if self.classes is None else tuple(name.strip() for name in self.classes.split(",") if name.strip())

    def round_budget(self, images: int) -> int:
        return max(1, round(self.budget * images))

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def run_folder(self) -> Path:
        if self.out:
            return Path(self.out)
        name = (
            self.data.replace(":", "-").replace(",", "-")
            if self.data.startswith("scenes")
            else Path(self.data).resolve().name
        )
        return Path("runs") / f"{name}-{self.acquisition}-seed{self.seed}"


def __getattr__(name: str) -> Any:
    return moved(__name__, name)


def _also_by_earlier_names(init: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(init)
    def accept(self, *args, **settings):
        for old in RENAMED.keys() & settings.keys():
            warnings.warn(f"Config({old}=) is {RENAMED[old]}= now", DeprecationWarning, stacklevel=2)
            settings[RENAMED[old]] = settings.pop(old)
        init(self, *args, **settings)

    return accept


Config.__init__ = _also_by_earlier_names(Config.__init__)  # type: ignore[method-assign]
FIELDS = {item.name: item for item in dataclasses.fields(Config)}
TYPES = typing.get_type_hints(Config)


def field_type(name: str) -> tuple[type, bool]:
    """A field's plain type and whether it may be None."""
    kind = TYPES[name]
    if isinstance(kind, types.UnionType):
        return next(arg for arg in typing.get_args(kind) if arg is not type(None)), True
    return kind, False


def _typed(value: Any, name: str) -> Any:
    kind, optional = field_type(name)
    if value is None and optional:
        return None
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is float and isinstance(value, str):  # YAML reads 1e-3 as a string
        try:
            return float(value)
        except ValueError:
            pass
    if name in ("classes", "hidden") and isinstance(value, list | tuple):
        return ",".join(map(str, value))
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ConfigError(f"`{name}` must be {'a' if kind is not int else 'an'} {kind.__name__}, got {value!r}")
    return value


def check_keys(values: dict[str, Any], where: str) -> dict[str, Any]:
    """The settings under today's names; raise ConfigError for a name that is none."""
    values = {RENAMED.get(key, key): value for key, value in values.items()}
    for key in values:
        if key not in FIELDS:
            close = difflib.get_close_matches(str(key), FIELDS, 1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; the settings are {', '.join(FIELDS)}"
            raise ConfigError(f"{where} has the unknown setting {key!r}{hint}")
    return values


def read_mapping(path: str | Path) -> dict[str, Any]:
    """The `name: value` lines of a YAML file."""
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"there is no configuration file {path}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold `name: value` lines, got {type(values).__name__}")
    return values


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Settings of a YAML file, checked for unknown names."""
    return check_keys(read_mapping(path), str(path))


def resumed_config(stored: dict[str, Any], overrides: dict[str, Any]) -> Config:
    """The configuration of an earlier run, taken up again; only `MAY_CHANGE` settings may differ."""
    stored, overrides = check_keys(stored, "the run's configuration"), check_keys(overrides, "the overrides")
    for key, value in overrides.items():
        if key not in MAY_CHANGE and key != "out" and _typed(value, key) != stored.get(key):
            raise ConfigError(
                f"`{key}` was {stored.get(key)!r} when the run began and is {value!r} now; resume without it, "
                f"or start another run with another --out"
            )
    return Config(**{**stored, **overrides})

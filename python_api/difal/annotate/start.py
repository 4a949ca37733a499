"""Open a run to annotate: a new one, or one that was begun by `difal label` or by `difal run`."""

from __future__ import annotations

import dataclasses
import getpass
import secrets
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from difal.annotate.handlers import Gate
from difal.annotate.label_studio import read_export
from difal.annotate.oracle import FOLDER
from difal.annotate.server import Server, make_server, token_of
from difal.annotate.session import Session
from difal.config import FIELDS, Config, resumed_config
from difal.data import Data
from difal.errors import ConfigError, LabelError, UnknownClassesError
from difal.files import exclusive, read_json, write_json
from difal.presets import make_config
from difal.run.directory import RunDirectory, absolute_paths, at_their_place
from difal.run.labels import Label
from difal.run.oracles import PersonOracle
from difal.run.start import check_classes, check_several, open_run_data

ANSWERS_PER_ROUND = 30  # where no `--budget` says otherwise
CHOICE = 4  # pixels to choose among for each that is asked, where no `--local` says otherwise
OWN_DEFAULTS = {  # what `own_defaults` sets, for the help
    "budget": f"{ANSWERS_PER_ROUND} pixels a round",
    "local": f"{FIELDS['local'].default}; of few images more",
}
NOT_NAMED_YET = "?"  # stands for the classes until the page has given them


def label_config(settings: dict[str, Any], file: str | Path | None = None, preset: str | None = None) -> Config:
    """The settings of the run to annotate: those of the folder `out` if it holds one, else new ones.

    Args:
        settings: overrides by name, `out` among them.
        file: YAML file of settings for a new run.
        preset: settings by name for a new run.

    Raises:
        ConfigError: the run in `out` has other settings, or is answered by masks.
    """
    out = settings.get("out") or (make_config(file, settings, preset).out if file else "")
    if out:
        run_dir, begun = RunDirectory(Path(out)), Path(out) / FOLDER / "session.json"
        if run_dir.exists or begun.is_file():
            if file or preset:
                raise ConfigError(f"{out} holds a run, which has its settings; leave out --preset and --config")
            stored = run_dir.config() if run_dir.exists else _begun(read_json(begun))
            if "classes" in settings and stored.get("classes") is None:
                settings = {key: value for key, value in settings.items() if key != "classes"}
            config = resumed_config(stored, {**settings, "out": str(out)})
            if config.oracle == "masks":
                raise ConfigError(f"the run in {out} is answered by masks; choose another --out")
            return config
    config = make_config(file, {**settings, "oracle": "person"}, preset)
    folder = config.run_folder()
    if not out and (RunDirectory(folder).exists or (folder / FOLDER / "session.json").is_file()):
        return label_config({**settings, "out": str(folder)}, file, preset)
    return dataclasses.replace(config, out=str(folder))


def _begun(stored: dict[str, Any]) -> dict[str, Any]:
    """The settings of a session whose run has not begun."""
    return at_their_place(stored["config"], stored.get("paths", {}))


def open_data(config: Config) -> tuple[Data, bool]:
    """The pool, and whether its classes are known; if not, one stands for them."""
    try:
        return open_run_data(config, RunDirectory(config.run_folder())), True
    except UnknownClassesError:
        if config.labels:
            raise
        return open_run_data(
            dataclasses.replace(config, classes=NOT_NAMED_YET), RunDirectory(config.run_folder())
        ), False


def open_session(
    config: Config,
    *,
    given: Container[str] | None = None,
    annotator: str | None = None,
    keys: dict[str, str] | None = None,
    repeats: float = 0.0,
    log: Callable[[str], None] = lambda line: None,
) -> Session:
    """A session at the run in `config.run_folder()`; call its `open` to begin.

    Args:
        config: see `label_config`.
        given: names of the settings that were given; a new run has other defaults of some, see `own_defaults`. None:
            all of them were.
        annotator: who answers; default: the user of this machine.
        keys: keys by class name.
        repeats: share of questions asked twice, at least 0 and at most 0.5.
        log: called with each line about the data, once the session is open, and with what stops it.

    Raises:
        UserError: something outside the program is wrong; the message names it and the cure.
    """
    if not 0 <= repeats <= 0.5:
        raise ConfigError(f"`repeats` must be at least 0 and at most 0.5, got {repeats}")
    folder, run_dir = config.run_folder() / FOLDER, RunDirectory(config.run_folder())
    path = folder / "session.json"
    stored = read_json(path) if path.is_file() else {}
    if stored.get("classes") and config.classes is None:
        config = dataclasses.replace(config, classes=",".join(stored["classes"]))
    data, known = open_data(config)
    if known and run_dir.begun:
        check_classes(run_dir.facts(), data)
    elif known and not stored:
        check_several(data.classes)
    if not run_dir.exists and not stored and given is not None:
        config = own_defaults(config, data, given)
    if not known:
        config = dataclasses.replace(config, classes=NOT_NAMED_YET)
    elif config.classes == NOT_NAMED_YET:
        known = False
    run_id = stored.get("run") or secrets.token_hex(8)

    def save(classes: list[str] | None) -> Config:
        now = config if classes is None else dataclasses.replace(config, classes=",".join(classes))
        paths = absolute_paths(now)
        write_json(path, {"run": run_id, "config": now.to_dict(), "paths": paths, "classes": classes})
        return now

    config = save(list(data.classes) if known else None)
    return Session(
        config,
        data,
        list(data.classes) if known else None,
        annotator=annotator or user_name(),
        run_id=run_id,
        keys=keys,
        repeats=repeats,
        save_classes=save,
        log=log,
    )


def own_defaults(config: Config, data: Data, given: Container[str]) -> Config:
    """Settings of a new run in which `budget` and `local` suit a person, unless they were given.

    A round asks `ANSWERS_PER_ROUND` pixels, whatever the number of images. Of few images more local picks are kept, so
    that there are `CHOICE` pixels for each that is asked: a run that asks all it has chooses nothing.
    """
    images = len(data.train)
    if "budget" not in given:
        config = dataclasses.replace(config, budget=ANSWERS_PER_ROUND / images)
    if "local" not in given:
        wanted = -(-CHOICE * config.rounds * config.round_budget(images) // images)
        most = min([config.candidates, *(height * width // 4 for height, width in data.train.shapes())])
        config = dataclasses.replace(config, local=max(config.local, min(wanted, most)))
    return config


def take_filled_in(session: Session) -> int:
    """Journal what was filled into `to_label.*` by hand; how many answers that were."""
    if not session.background.rounds or session.start is None:
        return 0
    oracle = PersonOracle(session.data, session.config.run_folder())
    return _take(session, [label for label in oracle.filled_in(session.background.rounds[-1]) or () if label.answered])


def take_label_studio(session: Session, path: Path) -> int:
    """Journal the key points of a Label Studio export; how many answers were new.

    Raises:
        LabelError: the file cannot be used, or the run has no classes yet; says why.
    """
    if session.start is None:
        raise LabelError("name the classes first, by --classes, so that the export's can be told")
    return _take(session, read_export(path, session.data.train.ids, session.answers.classes.names))


def _take(session: Session, labels: Sequence[Label]) -> int:
    """Journal labels made elsewhere; those that were taken before count once."""
    sent = [
        {
            "id": f"known-{session.background.index[label.image]}-{label.y}-{label.x}-{label.class_id}",
            "type": "answer",
            "kind": "known",
            "image": session.background.index[label.image],
            "x": label.x,
            "y": label.y,
            "class_id": label.class_id,
            "reason": None if label.class_id is not None else "none",
            "seconds": label.seconds,
        }
        for label in labels
    ]
    new = [one for one in sent if one["id"] not in session.journal]
    session.keep(new)
    return len(new)


@contextmanager
def serving(
    session: Session, *, port: int | None = None, hosts: tuple[str, ...] = (), framed: bool = False
) -> Iterator[Server]:
    """A server of the session, which is open meanwhile; the run is this process's alone.

    Raises:
        UserError: another process annotates this run, or the port cannot be had.
    """
    with exclusive(session.folder):
        server = make_server(session, Gate(token_of(session.folder), hosts, framed), port)
        session.open()
        try:
            take_filled_in(session)
            yield server
        finally:
            server.shutdown()
            server.server_close()
            session.close()


def user_name() -> str:
    """The name of this machine's user, where it has one."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return "annotator"

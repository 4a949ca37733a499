"""Files that are either whole or absent, whatever moment the process is killed at."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import BaseFileLock, FileLock, Timeout
from safetensors.torch import save

from difal.errors import UserError

TMP = ".difal-tmp-"
_passages = itertools.count(1)  # of the crash point that the environment names


def crash_point(name: str) -> None:
    """Die here by SIGKILL if the environment says so: how the tests kill a run at a chosen moment.

    `DIFAL_CRASH=NAME` or `DIFAL_CRASH=NAME:n` dies at the n-th passage (from 1) of the point NAME; `*` is any point.
    """
    wanted = os.environ.get("DIFAL_CRASH")
    if not wanted:
        return
    point, _, count = wanted.partition(":")
    if point in (name, "*") and next(_passages) == int(count or 1):
        os.kill(os.getpid(), signal.SIGKILL)


def write_bytes(path: Path, content: bytes) -> None:
    """Write to a neighbour, fsync, rename over `path`, fsync the folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    neighbour = path.with_name(TMP + path.name)
    try:
        with open(neighbour, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:  # for instance, the disk is full; Python's message names no file
        neighbour.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from None
    crash_point("before-rename")
    os.replace(neighbour, path)
    if hasattr(os, "O_DIRECTORY"):  # Windows opens no folders
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    crash_point("after-rename")


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} line {error.lineno} is not JSON ({error.msg}); restore or delete it") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not JSON ({error}); restore or delete it") from None


def write_npy(path: Path, array: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_bytes(path, buffer.getvalue())


def write_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """A safetensors file of torch tensors."""
    write_bytes(path, save({k: v.contiguous() for k, v in tensors.items()}, metadata))


def derive_seed(*parts: Any) -> int:
    """A 63-bit seed from any words and numbers, the same on every machine."""
    words = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(words, digest_size=8).digest(), "big") >> 1


def digest(value: Any) -> str:
    """Twelve hex digits of a JSON-able value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def digest_file(path: Path) -> str:
    """Twelve hex digits of a file's bytes."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            found.update(block)
    return found.hexdigest()[:12]


def digest_ids(ids: Iterable[str]) -> str:
    return digest(list(ids))


@contextmanager
def exclusive(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a folder for one process; the lock ends with the process, so a killed run leaves none behind.

    Args:
        folder: made if it is not there; what an interrupted write left in it is removed.
        wait: wait for a process that holds it.

    Raises:
        UserError: another process holds it, or it cannot be written to.
    """
    lock = FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if not wait:
                raise UserError(
                    f"another process is working in {folder}; wait for it or choose another folder"
                ) from None
            print(f"waiting for another process that is working in {folder}", file=sys.stderr, flush=True)
            lock.acquire()
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{folder} cannot be written to ({reason}); choose another folder") from None
    try:
        for leftover in folder.rglob(TMP + "*"):
            leftover.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


def claim(path: Path) -> BaseFileLock | None:
    """Return the lock of the file `path`, held; None if another process holds it. It ends with the process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return lock

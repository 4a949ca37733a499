"""The rows to choose from: one array, whatever number of files it is spread over."""

from __future__ import annotations

import glob
import hashlib
import itertools
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..ops.maxherding.backends.cpu import free_memory
from .errors import InputError
from .formats import Source, first_bad, open_features

MAGIC = frozenset("*?[")


@dataclass(frozen=True)
class Pool:
    """Features of all samples.

    Attributes:
        features: (N, D), in memory or a map of a file.
        sources: the files, in the order of their rows.
    """

    features: torch.Tensor
    sources: tuple[Source, ...]

    def fingerprint(self) -> str:
        """A digest of what the files are: paths, sizes, times of change, shapes. Contents are not read."""
        digest = hashlib.sha256()
        for source in self.sources:
            stat = source.path.stat()
            line = f"{source.path.resolve()} {stat.st_size} {stat.st_mtime_ns} {source.rows} {source.columns}\n"
            digest.update(line.encode())
        return digest.hexdigest()


def find_files(patterns: Sequence[str]) -> list[Path]:
    """File names and glob patterns to files, in the order given, those of a pattern by name.

    Raises:
        InputError: a pattern matches nothing, or a file comes twice.
    """
    files: list[Path] = []
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            raise InputError(f"{pattern} is a folder; name its files by a pattern in quotes, such as '{path}/*.npy'")
        if MAGIC & set(pattern) and not path.exists():
            found = sorted(Path(name) for name in glob.glob(pattern, recursive=True))
            if not found:
                raise InputError(f"no file matches {pattern!r}; check the pattern")
            files += found
        else:
            files.append(path)
    seen: set[Path] = set()
    for path in files:
        if path.resolve() in seen:
            raise InputError(f"{path} is given twice; every row would be in the pool twice")
        seen.add(path.resolve())
    return files


def out_of_number(files: Sequence[Path]) -> tuple[Path, Path] | None:
    """Two files that follow each other though the number in the first name is the larger one; None if none do."""
    for before, after in itertools.pairwise(files):
        parts = [re.split(r"(\d+)", path.name) for path in (before, after)]
        if parts[0][0::2] == parts[1][0::2] and before.parent == after.parent:
            numbers = [[int(number) for number in part[1::2]] for part in parts]
            if numbers[0] > numbers[1]:
                return before, after
    return None


def open_pool(files: Sequence[Path], column: str | None, scratch: Path) -> Pool:
    """Open all feature files as one array of rows.

    One file is used where it is. Several, and those that cannot be used where they are, are copied into memory if half
    of what is free holds them, else into a temporary file.

    Args:
        files: feature files, of one width.
        column: the name of the array or column in each; None where a file has one only.
        scratch: the folder for the temporary file.

    Raises:
        InputError: a file cannot be used; or there is no room.
    """
    sources = tuple(open_features(path, column) for path in files)
    for source in sources[1:]:
        if source.columns != sources[0].columns:
            raise InputError(
                f"{source.path} has {source.columns} numbers a row and {sources[0].path} has {sources[0].columns}; "
                f"all must be features of one model"
            )
    if len(sources) == 1 and sources[0].whole is not None:
        (source,) = sources
        row = 0
        for block in source.blocks():
            check_block(source, block, row)
            row += len(block)
        return Pool(source.whole, sources)
    dtype = _common_dtype(sources)
    features, row = _room(sum(source.rows for source in sources), sources[0].columns, dtype, scratch), 0
    for source in sources:
        begin = row
        for block in source.blocks():
            check_block(source, block, row - begin)
            if row + len(block) > len(features):
                break
            features[row : row + len(block)] = block
            row += len(block)
        if row - begin != source.rows:
            raise InputError(f"{source.path} holds {row - begin} rows and says {source.rows}; it is damaged")
    return Pool(features, sources)


def take_rows(features: torch.Tensor, rows: torch.Tensor, scratch: Path) -> torch.Tensor:
    """Copy some rows, into memory or a temporary file as `open_pool` does."""
    out = _room(len(rows), features.shape[1], features.dtype, scratch)
    for start in range(0, len(rows), 4096):
        out[start : start + 4096] = features[rows[start : start + 4096]]
    return out


def check_block(source: Source, block: torch.Tensor, row: int) -> None:
    """Refuse rows that hold a number that is not finite; the block's first row is number `row` of the file."""
    if block.shape[1] != source.columns:
        raise InputError(
            f"{source.path}: row {row} has {block.shape[1]} numbers and the first row has {source.columns}; "
            f"every row needs as many"
        )
    bad = first_bad(block)
    if bad is not None:
        raise InputError(
            f"{source.path}: row {row + bad[0]}, column {bad[1]} is {bad[2]}; drop such rows or compute them again"
        )


def _common_dtype(sources: Sequence[Source]) -> torch.dtype:
    """A type that holds the numbers of all files exactly."""
    if len({source.dtype for source in sources}) == 1:
        return sources[0].dtype
    dtypes = [source.dtype if source.dtype.is_floating_point else torch.float16 for source in sources]
    common = dtypes[0]
    for dtype in dtypes[1:]:
        common = torch.promote_types(common, dtype)
    return common


def _room(rows: int, columns: int, dtype: torch.dtype, scratch: Path) -> torch.Tensor:
    size = rows * columns * dtype.itemsize
    if size <= free_memory() // 2:
        return torch.empty(rows, columns, dtype=dtype)
    if size > shutil.disk_usage(scratch).free:
        raise InputError(
            f"the features take {size / 2**30:.1f} GiB, more than half of the free memory and more than is free in "
            f"{scratch}; write the output to a disk with more room"
        )
    with tempfile.TemporaryFile(dir=scratch, prefix=".difal-select-") as file:  # without a name: gone with the process
        file.truncate(size)
        mapped = np.memmap(file, np.uint8, "r+", shape=(size,))
    return torch.from_numpy(mapped).view(dtype).view(rows, columns)

"""Feature files: which formats there are, and how rows are read from each, without loading all where possible."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .._npy import load_npy
from .errors import InputError

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8, torch.uint8)
BLOCK = 1 << 26  # bytes of rows that are looked at together


@dataclass(frozen=True)
class Source:
    """Rows of features in one file.

    Attributes:
        path: the file.
        rows, columns, dtype: of the array in it.
        whole: the array as it lies in the file, if that can be used where it is; rows are read from disk when needed.
        read: makes an iterator over all rows, (some, columns) tensors in order, where `whole` is None.
    """

    path: Path
    rows: int
    columns: int
    dtype: torch.dtype
    whole: torch.Tensor | None
    read: Callable[[], Iterator[torch.Tensor]] | None = None

    def blocks(self) -> Iterator[torch.Tensor]:
        """All rows in order, a few at a time."""
        if self.whole is None:
            yield from self.read() if self.read is not None else ()
            return
        height = max(1, BLOCK // max(1, self.columns * self.dtype.itemsize))
        for start in range(0, self.rows, height):
            yield self.whole[start : start + height]


def open_features(path: Path, name: str | None) -> Source:
    """Open the (rows, columns) array of a file.

    Args:
        path: a file of one of `FORMATS`.
        name: the array in an .npz or .safetensors file, or the column of a table; None where there is only one.

    Raises:
        InputError: the file cannot be read, or holds no such array.
    """
    reader = FORMATS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path} ends in {path.suffix or 'nothing'}; feature files end in {', '.join(FORMATS)}")
    if not path.is_file():
        raise InputError(f"there is no file {path}; check the name")
    try:
        source = reader(path, name)
    except InputError:
        raise
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise InputError(f"{path} cannot be read as {path.suffix}: {one_line(error)}") from None
    if source.dtype not in DTYPES:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        found = str(source.dtype).removeprefix("torch.")
        raise InputError(f"{path} holds numbers of type {found}; save features as one of {names}")
    if source.rows == 0 or source.columns == 0:
        raise InputError(f"{path} holds an empty array of shape ({source.rows}, {source.columns})")
    return source


def one_line(error: BaseException) -> str:
    """The first line of an error's message, shortened."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text if len(text) <= 200 else text[:197] + "..."


def _matrix(path: Path, array: Any, what: str) -> tuple[int, int]:
    if len(array.shape) != 2:
        raise InputError(f"{path}: {what} must be 2-D, a row for each sample; it has shape {tuple(array.shape)}")
    return int(array.shape[0]), int(array.shape[1])


def _torch_array(path: Path, array: np.ndarray) -> torch.Tensor:
    """The same memory as a tensor."""
    from .._checks import as_tensor

    try:
        return as_tensor(array, path.name, DTYPES)
    except TypeError:
        raise InputError(
            f"{path} holds numbers of type {array.dtype}; save features as float16, float32, float64, int8 or uint8"
            " (bfloat16 in a .safetensors file)"
        ) from None


def _npy(path: Path, name: str | None) -> Source:
    if name is not None:
        raise InputError(f"{path} holds one array without a name; leave --column out")
    array = read_npy(path)
    rows, columns = _matrix(path, array, "the array")
    if rows == 0 or columns == 0:
        return Source(path, rows, columns, torch.float32, None)
    tensor = _torch_array(path, array)
    return Source(path, rows, columns, tensor.dtype, tensor)


def read_npy(path: str | Path) -> np.ndarray:
    """The array of an .npy file as a map of it.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return load_npy(path, mapped=True)
    except OSError as error:
        raise InputError(f"{path} cannot be opened: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{error}; write it again by numpy.save, as one array of numbers") from None


def _chosen(path: Path, names: list[str], name: str | None, what: str) -> str:
    if name is not None:
        if name not in names:
            raise InputError(f"{path} has no {what} {name!r}; it has {', '.join(map(repr, names)) or 'none'}")
        return name
    if len(names) != 1:
        listed = ", ".join(map(repr, names[:20])) or "none"
        raise InputError(f"{path} has {len(names)} {what}s ({listed}); say which one with --column NAME")
    return names[0]


def _npz(path: Path, name: str | None) -> Source:
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} is no .npz file, or is cut short; write it again by numpy.savez")
    try:
        with np.load(path, allow_pickle=False) as archive:
            array = archive[_chosen(path, list(archive.files), name, "array")]
    except InputError:
        raise
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        objects = "allow_pickle" in str(error)
        what = "holds Python objects, not numbers" if objects else "is damaged"
        raise InputError(f"{path} {what}; write it again by numpy.savez, of arrays of numbers") from None
    rows, columns = _matrix(path, array, "the array")
    tensor = _torch_array(path, array)
    return Source(path, rows, columns, tensor.dtype, tensor)


def _safetensors(path: Path, name: str | None) -> Source:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise InputError(f"{path} needs the package safetensors: pip install safetensors") from None
    try:
        with safe_open(path, framework="pt") as archive:
            names = [key for key in archive.keys() if len(archive.get_slice(key).get_shape()) == 2]  # noqa: SIM118
            tensor = archive.get_tensor(_chosen(path, names, name, "2-D array"))  # a map of the file
    except SafetensorError as error:
        raise InputError(f"{path} cannot be read as .safetensors: {one_line(error)}") from None
    return Source(path, *_matrix(path, tensor, "the array"), tensor.dtype, tensor)


def _arrow(path: Path, name: str | None) -> Source:
    """Columns of lists, in Parquet files or Arrow files and streams (also Feather 2, and what `datasets` writes)."""
    table = open_table(path)
    names = [field.name for field in table.schema if _list_width(field.type) is not None]
    column = _chosen(path, names, name, "column of lists of numbers")

    def read() -> Iterator[torch.Tensor]:
        row = 0
        for batch in table.batches([column]):
            values = _list_values(path, batch.column(0), row)
            row += len(values)
            if len(values):
                yield _torch_array(path, values)

    if table.rows == 0:
        return Source(path, 0, 0, torch.float32, None)
    first = next(read())
    return Source(path, table.rows, first.shape[1], first.dtype, None, read)


def _list_width(kind: Any) -> int | None:
    """Numbers in each list of an Arrow type, 0 if that is not fixed; None for other types."""
    import pyarrow.types as types

    lists = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    if not lists or not (types.is_floating(kind.value_type) or types.is_integer(kind.value_type)):
        return None
    return kind.list_size if types.is_fixed_size_list(kind) else 0


def _list_values(path: Path, column: Any, row: int) -> np.ndarray:
    """(rows, width) of an Arrow array of lists; `row` is the first one's number in the file."""
    if column.null_count:
        missing = row + int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise InputError(f"{path}: row {missing} has no features (null); fill or drop such rows")
    count = len(column)
    flat = column.flatten()
    if flat.null_count:
        raise InputError(f"{path}: rows from {row} to {row + count - 1} hold missing numbers (null); fill or drop them")
    numbers = flat.to_numpy(zero_copy_only=False)
    lengths = np.full(count, _list_width(column.type))
    if count and lengths[0] == 0:
        lengths = np.asarray(column.value_lengths())
    if count and (lengths != lengths[0]).any():
        other = int(np.flatnonzero(lengths != lengths[0])[0])
        raise InputError(
            f"{path}: row {row + other} has {lengths[other]} numbers and row {row} has {lengths[0]}; "
            f"every row needs as many"
        )
    return numbers.reshape(count, -1)


@dataclass(frozen=True)
class Table:
    """An Arrow or Parquet file.

    Attributes:
        schema: the pyarrow.Schema.
        rows: how many rows it has.
        batches: an iterator over record batches of some of the columns.
    """

    schema: Any
    rows: int
    batches: Callable[[list[str]], Iterator[Any]]


def open_table(path: Path) -> Table:
    """Open a file of `TABLES`.

    Raises:
        InputError: pyarrow is missing, or the file is no such table.
    """
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError:
        raise InputError(f"{path} needs the package pyarrow: pip install pyarrow") from None
    try:
        if path.suffix.lower() == ".parquet":
            file = pyarrow.parquet.ParquetFile(path, memory_map=True)
            return Table(file.schema_arrow, file.metadata.num_rows, lambda names: file.iter_batches(columns=names))
        mapped = pyarrow.memory_map(str(path))
        try:
            reader = pyarrow.ipc.open_file(mapped)
            batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        except pyarrow.ArrowInvalid:  # not the file format but the stream format
            mapped.seek(0)
            reader = pyarrow.ipc.open_stream(mapped)
            batches = list(reader)  # of mapped memory
    except pyarrow.ArrowException as error:
        raise InputError(f"{path} cannot be read as {path.suffix}: {one_line(error)}") from None
    return Table(
        reader.schema, sum(len(batch) for batch in batches), lambda names: (batch.select(names) for batch in batches)
    )


def first_bad(block: torch.Tensor) -> tuple[int, int, float] | None:
    """Row, column and value of the first number of a block that is NaN or infinite."""
    if not block.dtype.is_floating_point:
        return None
    total = block.sum(dtype=torch.float32 if block.dtype.itemsize == 2 else None)
    if math.isfinite(float(total)):
        return None
    bad = (~torch.isfinite(block)).nonzero()
    if not len(bad):
        return None
    row, column = bad[0].tolist()
    return row, column, float(block[row, column])


TABLES = (".parquet", ".arrow", ".feather")
FORMATS = {".npy": _npy, ".npz": _npz, ".safetensors": _safetensors, **dict.fromkeys(TABLES, _arrow)}

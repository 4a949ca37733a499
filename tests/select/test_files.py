"""Feature files of every format give the same picks, and what cannot be used is named."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from clouds import cloud
from difal_kernels import maxherding
from difal_kernels.select.pool import open_pool


def write(name: str, x: torch.Tensor) -> None:
    """Features as a file of the format that the name ends in."""
    suffix = Path(name).suffix
    if suffix == ".npy":
        np.save(name, x.numpy())
    elif suffix == ".npz":
        np.savez(name, features=x.numpy(), other=np.zeros(3))
    elif suffix == ".safetensors":
        save_file({"features": x, "bias": torch.zeros(3)}, name)
    else:
        pyarrow, parquet, feather = (pytest.importorskip("pyarrow" + part) for part in ("", ".parquet", ".feather"))
        flat = pyarrow.array(x.flatten().numpy())
        fixed = pyarrow.FixedSizeListArray.from_arrays(flat, x.shape[1])
        column = fixed if suffix == ".feather" else pyarrow.array(list(x.numpy()))
        table = pyarrow.table({"id": [f"row-{i}" for i in range(len(x))], "features": column})
        if suffix == ".parquet":
            parquet.write_table(table, name, row_group_size=70)
        elif suffix == ".feather":
            feather.write_feather(table, name, compression="uncompressed", chunksize=90)
        else:
            with pyarrow.OSFile(name, "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as stream:
                stream.write_table(table, max_chunksize=80)


SUFFIXES = (".npy", ".npz", ".safetensors", ".parquet", ".arrow", ".feather")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int8])
def test_every_format_gives_the_same_picks(pool, command, suffix, dtype):
    x = (4 * pool).round().to(dtype) if dtype == torch.int8 else pool.to(dtype)
    write("in" + suffix, x)
    column = ["--column", "features"] if suffix == ".npz" else []
    code, _, err = command("in" + suffix, *column, "--budget", 25, "--out", "p.npy")
    assert code == 0, err
    wide = x.float() if dtype == torch.int8 else x
    assert np.load("p.npy").tolist() == maxherding(wide, 25).tolist()


def test_bfloat16_from_safetensors(pool, command):
    write("in.safetensors", pool.bfloat16())
    assert command("in.safetensors", "--budget", 25, "--out", "p.npy")[0] == 0
    assert np.load("p.npy").tolist() == maxherding(pool.bfloat16(), 25).tolist()


@pytest.mark.parametrize("in_memory", [True, False])
def test_shards_are_one_pool(pool, command, monkeypatch, in_memory):
    for i, suffix in enumerate((".npy", ".safetensors", ".npy")):
        write(f"part-{i}{suffix}", pool[100 * i : 100 * (i + 1)])
    if not in_memory:
        monkeypatch.setattr("difal_kernels.select.pool.free_memory", lambda: 0)
    want = maxherding(pool, 25).tolist()
    assert command("part-*", "--budget", 25, "--out", "p.npy")[0] == 0
    assert np.load("p.npy").tolist() == want
    monkeypatch.setattr(sys, "stdin", io.StringIO("part-0.npy\npart-1.safetensors\n\npart-2.npy\n"))
    code, out, _ = command("-", "--budget", 25, "--out", "-")
    assert code == 0
    assert [int(line) for line in out.split()] == want
    assert {path.suffix for path in Path().iterdir()} == {".npy", ".safetensors", ".json"}


def test_ids_come_from_a_column_and_candidates_from_standard_input(pool, command, monkeypatch):
    write("in.parquet", pool)
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"row-{i}\n" for i in range(0, 300, 2))))
    code, _, err = command("in.parquet", "--id-column", "id", "--candidates", "-", "--budget", 9, "--out", "p.txt")
    assert code == 0, err
    want = maxherding(pool, 9, candidates=np.arange(0, 300, 2))
    assert Path("p.txt").read_text().split() == [f"row-{i}" for i in want.tolist()]


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_one_file_is_used_where_it_is(pool, monkeypatch, suffix):
    def no_room(*args):
        raise AssertionError("features are copied")

    monkeypatch.setattr("difal_kernels.select.pool._room", no_room)
    write("one" + suffix, pool)
    assert torch.equal(open_pool([Path("one" + suffix)], None, Path()).features, pool)


CASES = {
    "no such file": (["none.npy"], "there is no file none.npy"),
    "no match": (["x-*.npy"], "no file matches"),
    "a folder": (["folder"], "is a folder; name its files by a pattern"),
    "unknown ending": (["notes.txt"], "feature files end in .npy"),
    "not an array": (["broken.npy"], "broken.npy is no .npy file; write it again by numpy.save"),
    "nothing": (["nothing.npy"], "nothing.npy is no .npy file"),
    "truncated": (["cut.npy"], "cut.npy is cut short: 2,872 of 9,600 bytes of its array are there"),
    "header cut": (["header.npy"], "header.npy has a damaged header"),
    "header damaged": (["damaged.npy"], "damaged.npy has a damaged header"),
    "shape of no numbers": (["shape.npy"], "shape.npy has a damaged header"),
    "no archive": (["broken.npz"], "broken.npz is no .npz file, or is cut short; write it again by numpy.savez"),
    "damaged archive": (["damaged.npz"], "damaged.npz is damaged"),
    "objects in an archive": (["objects.npz"], "objects.npz holds Python objects, not numbers"),
    "damaged safetensors": (["broken.safetensors"], "broken.safetensors cannot be read"),
    "damaged parquet": (["broken.parquet"], "broken.parquet cannot be read"),
    "pickled": (["objects.npy"], "objects.npy holds Python objects, not numbers; write it again"),
    "one dimension": (["flat.npy"], "must be 2-D"),
    "complex": (["complex.npy"], "complex"),
    "empty": (["empty.npy"], "empty array"),
    "not finite": (["nan.npy"], "nan.npy: row 7, column 2 is nan"),
    "not finite in half precision": (["inf.npy"], "inf.npy: row 1, column 0 is inf"),
    "other width": (["pool.npy", "narrow.npy"], "narrow.npy has 3 numbers a row and pool.npy has 8"),
    "twice": (["pool.npy", "./pool.npy"], "is given twice"),
    "which array": (["two.npz"], "say which one with --column NAME"),
    "no such array": (["two.npz", "--column", "c"], "has no array 'c'; it has 'a', 'b'"),
    "a name for none": (["pool.npy", "--column", "c"], "leave --column out"),
    "ids too few": (["pool.npy", "--ids", "three.txt"], "three.txt has 3 ids and there are 300 rows"),
    "unknown id": (["pool.npy", "--candidates", "words.txt"], "'cat' is no row number"),
    "row outside": (["pool.npy", "--candidates", "outside.txt"], "outside.txt line 2: row 300 is not between"),
    "row twice": (["pool.npy", "--candidates", "twice.txt"], "more than once"),
    "candidates damaged": (["pool.npy", "--candidates", "broken.npy"], "broken.npy is no .npy file"),
    "mask too short": (["pool.npy", "--candidates", "mask.npy"], "has 5 entries and there are 300 rows"),
    "no candidates": (["pool.npy", "--candidates", "nothing.txt"], "names no rows"),
    "weights too few": (["pool.npy", "--weights", "flat.npy"], "flat.npy has 5 numbers and there are 300 rows"),
    "weights negative": (["pool.npy", "--weights", "negative.npy"], "row 3 is -1.0"),
    "weights no numbers": (["pool.npy", "--weights", "words.txt"], "line 1: 'cat' is no number"),
    "weights all zero": (["pool.npy", "--weights", "zero.npy"], "no row would count"),
    "labeled of another model": (["pool.npy", "--labeled", "narrow.npy"], "has 3 numbers a row and the pool has 8"),
    "budget too large": (["pool.npy", "--budget", "301"], "--budget is 301 and there are 300"),
    "little memory": (["pool.npy", "--memory", "1KB"], "--memory is 1000 bytes and this selection"),
    "no folder": (["pool.npy", "--out", "nowhere/p.npy"], "there is no folder nowhere"),
    "plot of no kind": (["pool.npy", "--plot", "p.doc"], "--plot must end in"),
    "ids of no table": (["pool.npy", "--id-column", "id"], "pool.npy has no columns"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_cannot_be_used_is_named_and_nothing_is_written(pool, command, name):
    Path("folder").mkdir()
    for broken in ("broken.npy", "broken.npz", "broken.safetensors", "broken.parquet", "notes.txt"):
        Path(broken).write_bytes(b"hello, world, these are no features")
    whole = Path("pool.npy").read_bytes()
    Path("nothing.npy").touch()
    Path("cut.npy").write_bytes(whole[:3000])
    Path("header.npy").write_bytes(whole[:40])
    Path("damaged.npy").write_bytes(whole.replace(b"(300, 8)", b"(300, -"))
    Path("shape.npy").write_bytes(whole.replace(b"(300, 8)", b"(True,8)"))
    np.save("objects.npy", np.array([{}, []], dtype=object), allow_pickle=True)
    np.savez("objects.npz", np.array([{}, []], dtype=object))
    np.savez("damaged.npz", pool.numpy())
    archive = bytearray(Path("damaged.npz").read_bytes())
    archive[1000] ^= 255
    Path("damaged.npz").write_bytes(archive)
    np.save("flat.npy", np.zeros(5))
    np.save("complex.npy", np.zeros((5, 3), dtype=complex))
    np.save("empty.npy", np.zeros((0, 3)))
    np.save("narrow.npy", np.zeros((5, 3), dtype=np.float32))
    np.save("mask.npy", np.ones(5, dtype=bool))
    np.save("zero.npy", np.zeros(300))
    negative = np.ones(300)
    negative[3] = -1
    np.save("negative.npy", negative)
    bad = pool.clone()
    bad[7, 2] = torch.nan
    np.save("nan.npy", bad.numpy())
    bad = pool.half()
    bad[1, 0] = torch.inf
    np.save("inf.npy", bad.numpy())
    np.savez("two.npz", a=pool.numpy(), b=pool.numpy())
    Path("three.txt").write_text("a\nb\nc\n")
    Path("words.txt").write_text("cat\n")
    Path("outside.txt").write_text("4\n300\n")
    Path("twice.txt").write_text("4\n4\n")
    Path("nothing.txt").write_text("\n")
    before = set(Path().rglob("*"))
    argv, says = CASES[name]
    if "parquet" in name:
        pytest.importorskip("pyarrow")
    defaults = [word for option in (("--budget", "5"), ("--out", "p.npy")) if option[0] not in argv for word in option]
    code, out, err = command(*argv, *defaults)
    assert code == 1
    assert out == ""
    message = err.splitlines()[-1]
    assert message.startswith("difal-select: error: ")
    assert says in message
    assert "allow_pickle" not in message
    assert len(message) < 320
    assert set(Path().rglob("*")) == before


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "how many?"),
        (["--budget", "0"], "a whole number from 1 on"),
        (["--budget", "110%"], "at most 1"),
        (["--until", "1.5"], "at most 1"),
        (["--until", "x"], "is no number"),
        (["--budget", "5", "--method", "probcover"], "needs --radius"),
        (["--budget", "5", "--radius", "2"], "goes with --method probcover"),
        (["--budget", "5", "--method", "uherding"], "needs --weights"),
        (["--budget", "5", "--method", "kcenter", "--weights", "w.npy"], "does not go with --method kcenter"),
        (["--until", "0.5", "--method", "kcenter"], "kcenter does not"),
        (["--budget", "5", "--method", "kcenter", "--plot", "p.png"], "leave it out"),
        (["--budget", "5", "--method", "kcenter", "--bandwidth", "2"], "only for --dedup"),
        (["--budget", "5", "--kernel", "cosine", "--bandwidth", "2"], "which has none"),
        (["--budget", "5", "--kernel", "tophat"], "needs --bandwidth"),
        (["--budget", "5", "--kernel", "tophat", "--bandwidth", "2", "--dedup", "0.9"], "0 or 1"),
        (["--budget", "5", "--memory", "lots"], "is no amount of memory"),
        (["--budget", "5", "--labeled", "-", "--candidates", "-"], "standard input"),
        (["--budget", "5", "--ids", "a.txt", "--id-column", "id"], "not both"),
        (["--budget", "5", "--out", "p.pkl"], "must end in .npy, .txt or .csv"),
    ],
)
def test_options_that_contradict_each_other_are_named(pool, command, argv, says):
    code, out, err = command("pool.npy", *argv, *([] if "--out" in argv else ["--out", "p.npy"]))
    assert (code, out) == (2, "")
    assert says in err
    assert [path.name for path in Path().iterdir()] == ["pool.npy"]


def test_ragged_and_missing_lists_are_named(pool, command):
    pyarrow, parquet = (pytest.importorskip("pyarrow" + part) for part in ("", ".parquet"))
    for name, rows, says in (
        ("ragged", [[1.0, 2.0], [1.0], [3.0, 4.0]], "row 1 has 1 numbers and row 0 has 2"),
        ("missing", [[1.0, 2.0], None], "row 1 has no features"),
        ("hole", [[1.0, 2.0], [None, 1.0]], "hold missing numbers"),
    ):
        parquet.write_table(pyarrow.table({"f": rows}), f"{name}.parquet")
        code, _, err = command(f"{name}.parquet", "--budget", 1, "--out", "p.npy")
        assert code == 1
        assert says in err


def test_picks_of_cloud_do_not_depend_on_the_folder(tmp_path, command, monkeypatch):
    picks = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        np.save("x.npy", cloud().numpy())
        assert command("x.npy", "--budget", 9, "--out", "p.csv")[0] == 0
        picks.append(Path("p.csv").read_bytes())
    assert picks[0] == picks[1]

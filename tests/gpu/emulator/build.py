"""Builds csrc/cuda for the host, as the module `difal_kernels._cuda` whose device is the CPU.

With DIFAL_SANITIZE=address a read or write beyond an array, and one that is not aligned, is an error there:
csrc/sanitize/run.py.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[3]
HERE = Path(__file__).parent
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
FLAGS = ["-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-DDIFAL_EMULATED", "-U_FORTIFY_SOURCE"]
FLAGS += ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
if os.environ.get("DIFAL_SANITIZE") == "address":
    FLAGS += ["-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-g"]


def sources() -> list[Path]:
    return [ROOT / "csrc/bind_cuda.cpp", *sorted((ROOT / "csrc/cuda").glob("*.cu"))]


def build(folder: Path) -> Path:
    """The shared library in `folder`, made again only if a source has changed."""
    import pybind11

    compiler = os.environ.get("CXX", "c++")
    read = [*sources(), *sorted((ROOT / "csrc").rglob("*.h")), HERE / "cuda_emulator.h", Path(__file__)]
    how = " ".join([*FLAGS, sys.version]).encode()
    state = hashlib.sha256(b"".join(path.read_bytes() for path in read) + how).hexdigest()[:16]
    library = folder / state / f"_cuda{SUFFIX}"
    if library.exists():
        return library
    library.parent.mkdir(parents=True, exist_ok=True)
    places = [ROOT / "csrc", ROOT / "csrc/include", ROOT / "csrc/cuda", HERE]
    places += [Path(pybind11.get_include()), Path(sysconfig.get_path("include"))]
    include = [f"-I{place}" for place in places]

    def compile_one(source: Path) -> str:
        target = library.parent / (source.stem + ".o")
        command = [compiler, *FLAGS, *include, "-x", "c++", "-c", str(source), "-o", str(target)]
        subprocess.run(command, check=True)
        return str(target)

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, sources()))
    partial = library.with_suffix(f".{os.getpid()}")
    subprocess.run([compiler, *FLAGS, "-shared", *objects, "-o", str(partial)], check=True)
    partial.rename(library)
    return library


def load(folder: Path) -> ModuleType:
    """The emulated module; not yet where `difal_kernels` looks for it."""
    spec = importlib.util.spec_from_file_location("difal_kernels._cuda", build(folder))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    print(build(Path(sys.argv[1])))

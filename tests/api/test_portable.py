"""The packages where Python lacks the POSIX modules and the extension is not built, as on Windows."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
# argv: a run folder.
SCRIPT = """
import importlib, pkgutil, sys

HIDDEN = {"fcntl", "resource", "termios", "pwd", "grp", "difal_kernels._cpu", "difal_kernels._cuda"}

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name in HIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

for name in HIDDEN:
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Hide())

import difal, difal_kernels
from difal.files import exclusive

OPTIONAL = "triton baal skactiveml modAL small_text sklearn scipy diffusers transformers timm".split()
for package in (difal_kernels, difal):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if module.name.endswith("__main__") or module.name in HIDDEN:
            continue
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            assert error.name.split(".")[0] in OPTIONAL, (module.name, error)
        except ImportError as error:
            assert "pip install" in str(error), (module.name, error)
assert not HIDDEN & set(sys.modules)

from api.fakes import use_fake_encoder
from difal import cli
from difal_kernels import explain

import torch
chosen = next(line for line in explain("maxherding", torch.rand(9, 2), 2).splitlines() if "->" in line)
assert "reference" in chosen, chosen
use_fake_encoder()
words = ("run --data scenes:2,1,0 --encoder fake --size 32 --rounds 2 --budget 1 --candidates 30 --local 5 --random 5 "
         "--noise-samples 2 --epochs 2 --context 8 --threads 1 --pictures 1 --out").split()
sys.exit(cli.main([*words, sys.argv[1]]))
"""


def test_it_runs_without_posix_modules_and_without_the_extension(tmp_path):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "run")]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "round 1: 4 pixels queried" in done.stdout
    assert (tmp_path / "run/report.html").is_file()

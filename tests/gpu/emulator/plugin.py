"""pytest plugin: puts the emulated extension where difal_kernels looks for it, and lets Triton interpret the product.

So every test of the "cuda" backend runs on the host: `python -m pytest -p plugin -k cuda tests/ops` with this folder on
PYTHONPATH.
"""

import os
import sys
from pathlib import Path

import build

os.environ["TRITON_INTERPRET"] = "1"
FOLDER = Path(os.environ.get("DIFAL_EMULATOR_CACHE", build.ROOT / "build/emulator"))
sys.modules["difal_kernels._cuda"] = build.load(FOLDER)

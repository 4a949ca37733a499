"""Is an installed package whole? `python tests/smoke.py`, with the package installed and not on the path as source."""

import importlib.resources

import numpy as np
import torch

import difal.adapters.two_stage
import difal_kernels
from difal_kernels import available_backends, edald, entropy, hypercolumns, maxherding
from difal_kernels.testing import replay


def main() -> None:
    if "site-packages" not in difal_kernels.__file__:
        raise SystemExit(f"this is the source tree, not an installed package: {difal_kernels.__file__}")
    rng = np.random.default_rng(0)
    centers = 4 * rng.normal(size=(60, 24))
    features = (centers[rng.integers(0, 60, size=4000)] + rng.normal(size=(4000, 24))).astype(np.float32)
    native = maxherding(features, 40, backend="cpu", return_info=True)
    plain = maxherding(features, 40, backend="reference")
    if not np.array_equal(native.indices, plain):
        raise SystemExit("the native backend and the reference disagree")
    if replay(features, native.indices, bandwidth=native.bandwidth).max() > 1e-9:
        raise SystemExit("the picks are not greedy")
    tiny = maxherding(features, 40, memory_limit=56_000_000)  # the kernel has 64,000,000 bytes
    if not np.array_equal(tiny, plain):
        raise SystemExit("the matrix-free path and the reference disagree")
    logits = rng.normal(size=(50, 5, 7)).astype(np.float32)
    if not np.isfinite(edald(logits, logits[:, 0])).all() or entropy(logits).shape != (50, 5):
        raise SystemExit("disagreement is broken")
    maps = [rng.normal(size=(1, 8, 16, 16)).astype(np.float32)]
    if hypercolumns(maps, np.array([[3, 5]]), (32, 32)).shape != (1, 8):
        raise SystemExit("hypercolumns is broken")
    difal.adapters.two_stage.GlobalHerding().greedy_select(torch.from_numpy(features), 5)
    if not (importlib.resources.files("difal") / "presets" / "paper" / "camvid.yaml").is_file():
        raise SystemExit("the presets are not there")
    tiny_encoder = importlib.resources.files("difal") / "encoders" / "tiny" / "diffusion_pytorch_model.safetensors"
    if not tiny_encoder.is_file():
        raise SystemExit("the encoder that comes with the package is not there")
    print(f"difal-kernels {difal_kernels.__version__} works here: {available_backends()}")


if __name__ == "__main__":
    main()

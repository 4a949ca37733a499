"""One small run of every kernel, for compute-sanitizer: `compute-sanitizer --tool memcheck python small_cases.py`.

`--emulated` runs them on the host instead.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch


def main() -> None:
    if "--emulated" in sys.argv:
        sys.path.insert(0, str(Path(__file__).parent / "emulator"))
        import plugin  # noqa: F401
    from difal_kernels import disagreement, hypercolumns, maxherding
    from difal_kernels._native import load
    from difal_kernels.ops import _triton
    from difal_kernels.ops.maxherding.backends import BACKENDS
    from difal_kernels.ops.maxherding.backends.gpu import GpuTuning
    from difal_kernels.ops.maxherding.problem import prepare

    device = load("_cuda").DEVICE
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(150, 40, generator=generator).to(device)
    labeled = torch.randn(5, 40, generator=generator).to(device)
    for dtype in (torch.float32, torch.bfloat16):
        own = torch.nn.functional.normalize(x, dim=1).to(dtype)
        for kernel in ("rbf", "tophat", "cosine"):
            maxherding(own, 12, kernel=kernel, backend="cuda")
        maxherding(own, 12, labeled=labeled.to(dtype), candidates=range(20, 60), backend="cuda")
        tuning = GpuTuning(tile_points=64, max_entries=3000)
        batch = prepare(own, 12, labeled=labeled.to(dtype))
        replace(BACKENDS["cuda"], path="matrix-free", tuning=tuning).run(batch)
    maxherding(torch.stack([x[:70], x[70:140]]), 12, lengths=[70, 33], backend="cuda")
    maxherding((x @ x.T).abs() / 100, 12, kernel="precomputed", backend="cuda")
    for classes in (19, 100):
        logits = torch.randn(50, 3, classes, generator=generator).to(device)
        disagreement(logits, outputs=("entropy", "bald", "margin", "variation_ratio"), backend="cuda")
        for dtype in (torch.float32, torch.bfloat16):
            own = logits.to(dtype)
            last = own.movedim(0, 2).contiguous()  # positions side by side: read in pairs, one by one, some of them
            for view in (last, last[..., :49], last[..., ::2]):
                disagreement(view, sample_dim=0, class_dim=1, backend="cuda")
            disagreement(own, backend="cuda")
    maps = [torch.randn(2, 40, s, s, generator=generator).to(device) for s in (4, 9)]
    points, image = torch.tensor([[0, 0], [15, 3]]).to(device), torch.tensor([0, 1]).to(device)
    hypercolumns(maps, points, (16, 16), image_index=image, backend="cuda")
    if device == "cuda":
        if _triton.unavailable() is None:
            maxherding(x, 12, labeled=labeled, candidates=range(20, 150), backend="triton")
            maxherding(x.half(), 12, labeled=labeled.half(), candidates=range(20, 60), backend="triton")
            replace(BACKENDS["triton"], path="matrix-free", tuning=tuning).run(prepare(x, 12, labeled=labeled))
            disagreement(logits, outputs=("entropy", "bald", "margin", "variation_ratio"), backend="triton")
            disagreement(logits.movedim(0, 2), sample_dim=0, class_dim=1, backend="triton")
            hypercolumns(maps, points, (16, 16), image_index=image, backend="triton")
        torch.cuda.synchronize()
    print("every kernel ran")


if __name__ == "__main__":
    main()

"""The cases of bench_gpu.py: each beside the naive torch loop on the same GPU and beside two floors, the bytes it must
move over the measured copy bandwidth and the operations it must do over the measured rate of the GEMM.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

from difal_kernels import edald, hypercolumns, maxherding
from difal_kernels.testing import replay

BLOCKS = ((1024, 32), (512, 64), (256, 128), (256, 256))  # channels and side of the paper's decoder blocks 5, 8, 12, 17
TIMESTEPS = 3
REPORTED = 1e-9  # what counts as the best of a step, of the first gain, in float64


@dataclass
class Machine:
    device: torch.device
    small: bool  # a dry run
    copy_rate: float = 0.0  # bytes per second, read and written both counted
    gemm_rate: dict[str, float] = field(default_factory=dict)  # operations per second by dtype

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def time(self, run: Callable[[], object], repeats: int = 3, warm: bool = True) -> tuple[float, object]:
        """The fastest of some runs, in seconds, and the last answer."""
        answer, best = run() if warm else None, float("inf")
        for _ in range(1 if self.small else repeats):
            self.wait()
            began = time.perf_counter()
            answer = run()
            self.wait()
            best = min(best, time.perf_counter() - began)
        return best, answer

    def pick(self, real, miniature):
        return miniature if self.small else real

    def peak(self, run: Callable[[], object]) -> int | None:
        if self.device.type != "cuda":
            return None
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before


def measure_floors(m: Machine) -> dict:
    count = m.pick(1 << 30, 1 << 16)
    source, target = torch.ones(count, device=m.device), torch.empty(count, device=m.device)
    seconds, _ = m.time(lambda: target.copy_(source), 5)
    m.copy_rate = 8 * count / seconds
    side = m.pick(8192, 64)
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.randn(side, side, device=m.device).to(dtype)
        seconds, _ = m.time(lambda a=a: a @ a, 5)
        m.gemm_rate[str(dtype).removeprefix("torch.")] = 2 * side**3 / seconds
    return {"copy_bytes_per_second": m.copy_rate, "gemm_operations_per_second": m.gemm_rate}


def clusters(m: Machine, n: int, d: int, seed: int = 0, dtype=torch.bfloat16) -> torch.Tensor:
    """Unit vectors about 200 centres, as hypercolumns are of unit length."""
    generator = torch.Generator(m.device).manual_seed(seed)
    centers = torch.randn(200, d, device=m.device, generator=generator)
    out = torch.empty(n, d, dtype=dtype, device=m.device)
    for b in range(0, n, 8192):
        size = min(8192, n - b)
        which = torch.randint(200, (size,), device=m.device, generator=generator)
        noise = torch.randn(size, d, device=m.device, generator=generator)
        out[b : b + size] = torch.nn.functional.normalize(centers[which] + noise, dim=1)
    return out


def naive_seconds(m: Machine, features: torch.Tensor, picks: int, bandwidth: float) -> tuple[float, float, list[int]]:
    """Seconds to make the kernel and seconds per pick of the loop that people write, and its picks."""
    m.wait()
    began = time.perf_counter()
    x = features.float()
    kernel = torch.exp(-((torch.cdist(x, x) / bandwidth) ** 2))
    m.wait()
    making = time.perf_counter() - began
    covered, chosen = torch.zeros(len(x), device=m.device), []
    began = time.perf_counter()
    for _ in range(picks):
        gains = torch.clamp(kernel - covered[:, None], min=0).mean(0)
        gains[chosen] = -1
        chosen.append(int(gains.argmax()))
        covered = torch.maximum(covered, kernel[:, chosen[-1]])
    m.wait()
    return making, (time.perf_counter() - began) / picks, chosen


def gram_floor(m: Machine, n: int, d: int, sweeps: float, dtype: str = "bfloat16") -> float:
    """Seconds of `sweeps` halves of the Gram matrix at the measured rate."""
    return sweeps * n * n * d / m.gemm_rate[dtype]


def matrix_bytes(n: int, d: int, risen: float) -> float:
    """Of a selection: features of half precision read once, the matrix written and read once, then a row of it for each
    of the `risen` times N rows that rise (gpu_rounds.py counts them)."""
    return 2 * n * d + 4 * n * n * (1 + 1 + risen)


def agreement(a: torch.Tensor, b: list[int]) -> int:
    """How many picks agree before the first that does not."""
    return next((t for t, (x, y) in enumerate(zip(a.tolist(), b, strict=False)) if x != y), min(len(a), len(b)))


def local(m: Machine, backend: str = "cuda") -> dict:
    images, n, d, budget = m.pick((64, 10_000, 6144, 50), (2, 60, 16, 5))
    x = torch.stack([clusters(m, n, d, seed) for seed in range(images)])
    width = 1.5
    seconds, picks = m.time(lambda: maxherding(x, budget, bandwidth=width, backend=backend))
    some = m.pick(2, 1)
    naive = [naive_seconds(m, x[b], budget, width) for b in range(some)]
    per_image = sum(making + budget * each for making, each, _ in naive) / some
    moved = images * matrix_bytes(n, d, 4.3)
    return {
        "seconds": seconds,
        "naive_seconds": per_image * images,
        "naive_measured_on": f"{some} of {images} images",
        "times_faster": per_image * images / seconds,
        "goal_times_faster": 25,
        "gemm_floor_seconds": images * gram_floor(m, n, d, 1),
        "bytes_floor_seconds": moved / m.copy_rate,
        "naive_picks_right": [agreement(picks[b], naive[b][2]) for b in range(some)],
        "same_again": bool(torch.equal(picks, maxherding(x, budget, bandwidth=width, backend=backend))),
    }


def camvid(m: Machine, matrix_free: bool, backend: str = "cuda") -> dict:
    n, d, budget = m.pick((18_350, 6144, 9175), (150, 16, 40))
    x, width = clusters(m, n, d), 1.5
    limit = None
    if matrix_free:
        from difal_kernels.ops.maxherding.backends import BACKENDS
        from difal_kernels.ops.maxherding.plan import needed
        from difal_kernels.ops.maxherding.problem import prepare

        (p,) = prepare(x, budget, bandwidth=width).problems
        dense, tiled = (needed(BACKENDS["cuda"], p, path) for path in ("dense", "matrix-free"))
        limit = max(tiled, dense - 1)
        if tiled >= dense:
            return select_matrix_free(m, width, x, budget)
    seconds, picks = m.time(lambda: maxherding(x, budget, bandwidth=width, backend=backend, memory_limit=limit), 2)
    peak = m.peak(lambda: maxherding(x, budget, bandwidth=width, backend=backend, memory_limit=limit))
    return {**beside_naive(m, x, budget, width, seconds, picks), "peak_bytes": peak, "memory_limit": limit}


def select_matrix_free(m: Machine, width: float, x: torch.Tensor, budget: int) -> dict:
    """The matrix-free path where the dense one would need less memory, so that no limit asks for it."""
    from difal_kernels.ops.maxherding.backends import BACKENDS
    from difal_kernels.ops.maxherding.problem import prepare

    backend = replace(BACKENDS["cuda"], path="matrix-free")

    def run():
        with torch.no_grad():
            batch = prepare(x, budget, bandwidth=width, memory_limit=40 << 30)
            return backend.run(batch)[0].indices

    seconds, picks = m.time(run, 2)
    return {**beside_naive(m, x, budget, width, seconds, picks), "peak_bytes": m.peak(run)}


def beside_naive(m: Machine, x, budget: int, width: float, seconds: float, picks: torch.Tensor) -> dict:
    n, d = x.shape
    some = m.pick(200, 5)
    making, each, chosen = naive_seconds(m, x, some, width)
    naive = making + budget * each
    return {
        "seconds": seconds,
        "naive_seconds": naive,
        "naive_measured_on": f"{some} of {budget} picks, which cost the same each",
        "times_faster": naive / seconds,
        "goal_times_faster": 100,
        "gemm_floor_seconds": gram_floor(m, n, d, 1),
        "bytes_floor_seconds": matrix_bytes(n, d, 7.5) / m.copy_rate,
        "naive_picks_right": agreement(picks, chosen),
    }


def global_free(
    m: Machine, n: int, d: int, budget: int, goal: float, goal_bytes: int | None, backend: str = "cuda"
) -> dict:
    x, width = clusters(m, n, d), 1.5
    limit = m.pick(goal_bytes, None)
    run = lambda: maxherding(x, budget, bandwidth=width, backend=backend, memory_limit=limit, return_info=True)  # noqa: E731
    if m.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if m.device.type == "cuda" else 0
    seconds, got = m.time(run, 1, warm=False)
    peak = torch.cuda.max_memory_allocated() - before if m.device.type == "cuda" else None
    gains = got.gains
    return {
        "seconds": seconds,
        "goal_seconds": goal,
        "naive_seconds": None,
        "naive_why": f"its matrix has {4 * n * n / 2**30:.0f} GiB",
        "gemm_floor_seconds": gram_floor(m, n, d, 2),
        "bytes_floor_seconds": 2 * (4 * n * n + 2 * n * d) / m.copy_rate,
        "floors_are": "two sweeps, every tile of half the matrix written and read once",
        "peak_bytes": peak,
        "goal_bytes": goal_bytes,
        "contested": int(got.contested_picks),
        "gains_never_rise": bool((gains[1:] <= gains[:-1] + 1e-12 * gains[0]).all()),
        "no_repeats": len(set(got.indices.tolist())) == budget,
    }


def scores(m: Machine, backend: str = "cuda") -> dict:
    images, places, K, C = m.pick((64, 65_536, 5, 19), (2, 100, 3, 5))
    generator = torch.Generator(m.device).manual_seed(0)
    x = torch.randn(images, K, C, places, device=m.device, generator=generator)
    single = torch.randn(images, C, places, device=m.device, generator=generator)
    run = lambda: edald(x, single, sample_dim=1, class_dim=2, backend=backend)  # noqa: E731

    def naive():
        p = x.softmax(2)
        mean = p.mean(1)
        inner = -(p * (p + 1e-12).log()).sum(2).mean(1)
        q = single.softmax(1)
        h = -(q * (q + 1e-12).log()).sum(1)
        return h - (mean * (mean + 1e-12).log()).sum(1) - inner

    seconds, got = m.time(run, 10)
    naive_took, expected = m.time(naive, 3)
    moved = 4 * (x.numel() + single.numel() + got.numel())
    return {
        "seconds": seconds,
        "naive_seconds": naive_took,
        "times_faster": naive_took / seconds,
        "bytes": moved,
        "bytes_floor_seconds": moved / m.copy_rate,
        "share_of_copy_bandwidth": moved / seconds / m.copy_rate,
        "goal_share": 0.75,
        "largest_difference_to_naive": float((got - expected).abs().max()),
    }


def gather(m: Machine, backend: str = "cuda") -> dict:
    per_image = TIMESTEPS * sum(c * s * s for c, s in BLOCKS) * 2
    images, per = m.pick((367, 50), (2, 5))
    if m.device.type == "cuda":
        images = min(images, int(torch.cuda.mem_get_info()[0] * 0.7) // per_image)
    blocks = m.pick(BLOCKS, ((8, 4), (4, 8)))
    size = (256, 256)
    maps = [
        torch.empty(images, c, s, s, dtype=torch.bfloat16, device=m.device).normal_()
        for _ in range(TIMESTEPS)
        for c, s in blocks
    ]
    generator = torch.Generator(m.device).manual_seed(0)
    points = torch.randint(256, (images * per, 2), device=m.device, generator=generator)
    image = torch.arange(images, device=m.device).repeat_interleave(per)
    run = lambda: hypercolumns(maps, points, size, image_index=image, backend=backend)  # noqa: E731
    seconds, got = m.time(run, 10)

    def naive(count: int):
        rows = []
        for b in range(count):
            up = [torch.nn.functional.interpolate(v[b : b + 1], size=size, mode="bilinear") for v in maps]
            at = points[image == b]
            rows.append(torch.cat([u[0, :, at[:, 0], at[:, 1]] for u in up]).T)
        return torch.nn.functional.normalize(torch.cat(rows).float(), dim=1)

    some = min(images, 4)
    naive_took, expected = m.time(lambda: naive(some), 1)
    moved = 32 * sectors(maps, points, image, size) + got.numel() * 2
    return {
        "images": images,
        "seconds": seconds,
        "naive_seconds": naive_took * images / some,
        "naive_measured_on": f"{some} of {images} images",
        "times_faster": naive_took * images / some / seconds,
        "bytes": moved,
        "bytes_are": "distinct 32-byte sectors of each point and channel, and the answer",
        "bytes_floor_seconds": moved / m.copy_rate,
        "share_of_copy_bandwidth": moved / seconds / m.copy_rate,
        "goal_share": 0.75,
        "largest_difference_to_naive": float((got[: len(expected)].float() - expected).abs().max()),
    }


def sectors(maps, points: torch.Tensor, image: torch.Tensor, size: tuple[int, int]) -> int:
    """Sectors that the four corners lie in, summed over points and channels."""
    total = 0
    for view in maps:
        corners = []
        for axis in (0, 1):
            cells = view.shape[2 + axis]
            source = ((points[:, axis].double() + 0.5) * cells / size[axis] - 0.5).clamp(0, cells - 1)
            low = source.long()
            corners.append((low, torch.where(source > low, low + 1, low)))
        (top, bottom), (left, right) = corners
        width = view.element_size()
        start = image * view.stride(0)
        for c in range(view.shape[1]):
            at = [
                (start + c * view.stride(1) + y * view.stride(2) + x * view.stride(3)) * width // 32
                for y in (top, bottom)
                for x in (left, right)
            ]
            ordered = torch.stack(at).sort(0).values
            distinct = len(points) + int((ordered[1:] != ordered[:-1]).sum())
            if view.stride(1) * width % 32 == 0:  # every channel has as many
                total += distinct * view.shape[1]
                break
            total += distinct
    return total


def small_exact(m: Machine) -> dict:
    """Not a speed: the picks replayed in float64."""
    x = clusters(m, m.pick(2000, 80), m.pick(256, 8), dtype=torch.float32)
    picks = maxherding(x, m.pick(200, 10), bandwidth=1.5, backend="cuda")
    regret = float(replay(x.cpu(), picks.cpu(), bandwidth=1.5).max())
    return {"worst_regret": regret, "right": regret < REPORTED}

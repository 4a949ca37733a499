"""The steps of `gpu_check.sh smoke`, each in a process of its own: a row of JSON for each thing learned, at once.

python bench/gpu_smoke.py exact              on a GPU
python bench/gpu_smoke.py exact --no-gpu     in miniature, on emulated kernels
"""

from __future__ import annotations

import argparse
import contextlib
import json
import runpy
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "tests/gpu/emulator")]
if "--no-gpu" in sys.argv:
    import plugin  # noqa: F401  (puts the emulated extension in its place)

from difal_kernels import edald, hypercolumns, maxherding
from difal_kernels._native import load
from difal_kernels.ops import _gpu, _triton
from difal_kernels.ops.maxherding.backends import BACKENDS
from difal_kernels.ops.maxherding.backends.cuda.greedy import CudaGreedy
from difal_kernels.ops.maxherding.backends.cuda.operands import CudaOperands
from difal_kernels.ops.maxherding.backends.cuda.tiled import CudaTiledGreedy
from difal_kernels.ops.maxherding.backends.gpu import GpuBackend
from difal_kernels.ops.maxherding.backends.gpu import operands as gpu_operands
from difal_kernels.ops.maxherding.bounds import entry_bound
from difal_kernels.ops.maxherding.guessing import Guesser
from difal_kernels.ops.maxherding.kernel_functions import kernel_matrix
from difal_kernels.ops.maxherding.problem import prepare
from gpu_cases import BLOCKS, TIMESTEPS, Machine, clusters

WIDTH = 1.5
SWEEP = "tiles with their products"
CORRECTION = "corrections with their products"
PHASES = {
    "prepare": (CudaOperands, "__init__"),
    "products": (CudaOperands, "fill"),
    "start": (CudaGreedy, "start"),
    "select": (CudaGreedy, "select"),
    "guesses with their products": (Guesser, "guess"),
    SWEEP: (CudaTiledGreedy, "make_tiles"),
    CORRECTION: (CudaTiledGreedy, "replace"),
    "lists with their products": (CudaTiledGreedy, "fill_lists"),
}


def say(**row) -> None:
    print(json.dumps(row), flush=True)


def facts(m: Machine) -> None:
    say(torch=torch.__version__, cuda=torch.version.cuda, python=sys.version.split()[0], device=str(m.device))
    if m.device.type == "cuda":
        properties = torch.cuda.get_device_properties(m.device)
        say(gpu=properties.name, multiprocessors=properties.multi_processor_count, bytes=properties.total_memory)
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            query = ["nvidia-smi", "--query-gpu=driver_version,clocks.sm,clocks.mem", "--format=csv,noheader"]
            said = subprocess.run(query, capture_output=True, text=True, timeout=20)
            say(driver_and_clocks=said.stdout.strip())
    why_not = _gpu.unavailable() or _gpu.wrong_device(m.device)
    say(cuda_backend=why_not or "can run", triton_backend=_triton.unavailable() or "can run")


def product(m: Machine) -> None:
    """The product itself, first of all: half precision goes to the tensor cores as it is, float32 in halves, and no
    kernel value is further from float64's than its bound."""
    n, d = m.pick((2000, 6144), (70, 200))
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        (p,) = prepare(clusters(m, n, d, dtype=dtype), 2, bandwidth=WIDTH).problems
        began = time.perf_counter()
        with _triton.on(m.device):
            own = CudaOperands(p, BACKENDS["cuda"].tuning)
            got = own.fill(torch.empty(n, n, device=m.device), own.every, own.every, mirrored=True)
        want = kernel_matrix(p.features, p.features, p.kernel, p.bandwidth)
        bound = entry_bound(own.error, p.kernel, want, own.sq_norms[:, None] + own.sq_norms) + 1e-7 * want
        worst = float(((got - want).abs() / bound).max())
        m.wait()
        say(
            features=str(dtype), products_of=str(own.matrix.dtype), as_they_are=own.raw, instruction=instruction(m),
            bound=own.error.sq_dist_rel_err, error_over_bound=worst,
            seconds_with_compilation=time.perf_counter() - began,
        )  # fmt: skip
        if own.raw != (dtype in gpu_operands.HALVES) or own.matrix.dtype == torch.float32:
            # All that follows would be measured on products that cost three times as much.
            raise SystemExit(f"{dtype} does not go to the tensor cores as it should")
        if not worst <= 1:
            raise SystemExit(f"a kernel value of {dtype} is {worst:.3g} times its bound from the truth")


def instruction(m: Machine) -> str:
    """What multiplies in the compiled product; an error if that is no tensor core."""
    if m.device.type != "cuda":
        return "interpreted"
    from difal_kernels.ops.maxherding.backends.gpu.product_kernels import fill

    codes = [made.asm["ptx"] for cache in fill.device_caches.values() for made in cache[0].values()]
    for name in ("wgmma.mma_async", "tcgen05.mma", "mma.sync"):
        if codes and all(name in code for code in codes):
            return name
    raise SystemExit("the product was not compiled for tensor cores")


def pick(m: Machine) -> None:
    x = clusters(m, m.pick(3000, 40), m.pick(256, 16))
    for backend in ("cuda", "triton"):
        began = time.perf_counter()
        picks = maxherding(x, 4, bandwidth=WIDTH, backend=backend).tolist()
        say(backend=backend, picks=picks, seconds_with_compilation=time.perf_counter() - began)


def exact(m: Machine) -> None:
    """Picks against the float64 reference on the same device, with as many blocks together as there are."""
    n, d, budget = m.pick((12_000, 512, 200), (150, 24, 10))
    x = clusters(m, n, d)
    want = maxherding(x, budget, bandwidth=WIDTH, backend="reference")
    batch = torch.stack([clusters(m, m.pick(2000, 70), d, seed) for seed in range(m.pick(64, 3))])
    few = m.pick(50, 4)

    @torch.no_grad()
    def without_matrix(backend: str) -> torch.Tensor:
        return matrix_free(m, backend).run(prepare(x, budget, bandwidth=WIDTH))[0].indices

    wrong = 0

    def compare(name: str, got: torch.Tensor, expected: torch.Tensor) -> None:
        nonlocal wrong
        same = bool(torch.equal(got, expected))
        first = None if same else int((got != expected).nonzero()[0, -1])
        wrong += not same
        say(compared=name, right=same, first_wrong_pick=first)

    compare("cuda dense", maxherding(x, budget, bandwidth=WIDTH, backend="cuda"), want)
    compare("cuda matrix-free", without_matrix("cuda"), want)
    got = maxherding(batch, few, bandwidth=WIDTH, backend="cuda")
    compare("cuda batch", got, torch.stack([maxherding(b, few, bandwidth=WIDTH, backend="reference") for b in batch]))
    compare("cuda dense again", maxherding(x, budget, bandwidth=WIDTH, backend="cuda"), want)
    if _triton.unavailable() is None:
        compare("triton dense", maxherding(x, budget, bandwidth=WIDTH, backend="triton"), want)
        compare("triton matrix-free", without_matrix("triton"), want)
    if wrong:
        raise SystemExit(f"{wrong} selections differ from the float64 reference")


@contextlib.contextmanager
def phases(m: Machine) -> Iterator[Callable[[], dict]]:
    """Measure the phases of a selection within; the function gives seconds of each, and counters."""
    spans: list[tuple[str, object, object]] = []
    counts: list[dict[str, int]] = []
    before = {name: getattr(owner, method) for name, (owner, method) in PHASES.items()}

    def mark() -> object:
        if m.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def wrapped(name: str):
        def call(self, *arguments, **options):
            began = mark()
            out = before[name](self, *arguments, **options)
            spans.append((name, began, mark()))
            if name == "prepare" and self.features.dtype in gpu_operands.HALVES and not self.raw:
                raise SystemExit("features of half precision were widened: the figures would be of another product")
            if name == "select":
                counts.extend(self.counts(b) for b in range(len(self.tasks)))
            return out

        return call

    def told() -> dict:
        m.wait()
        seconds: dict[str, float] = {}
        for name, began, ended in spans:
            took = ended - began if m.device.type != "cuda" else began.elapsed_time(ended) / 1000
            seconds[name] = seconds.get(name, 0.0) + took
        sums = {name: sum(each[name] for each in counts) for name in (counts[0] if counts else {})}
        times = Counter(name for name, *_ in spans)
        return {"phases": seconds, "sweeps": times[SWEEP], "corrections": times[CORRECTION], "counters": sums}

    for name, (owner, method) in PHASES.items():
        setattr(owner, method, wrapped(name))
    try:
        yield told
    finally:
        for name, (owner, method) in PHASES.items():
            setattr(owner, method, before[name])


def timed(m: Machine, name: str, run: Callable[[], object], warm: bool, goal: float) -> None:
    """One run with its phases and counters; then, where it is short, one without."""
    if warm:
        run()
    m.wait()
    began = time.perf_counter()
    with phases(m) as told:
        run()
        row = told()
    seconds = time.perf_counter() - began
    peak = torch.cuda.max_memory_allocated() if m.device.type == "cuda" else None
    say(case=name, seconds=seconds, goal_seconds=goal, peak_bytes=peak, **row)
    if seconds < 5:
        again, _ = m.time(run, 2, warm=False)
        say(case=name, seconds_without_events=again)


def select(name: str, sizes, miniature, goal: float) -> Callable[[Machine], None]:
    def run(m: Machine) -> None:
        images, n, d, budget = m.pick(sizes, miniature)
        x = clusters(m, n, d) if images == 1 else torch.stack([clusters(m, n, d, seed) for seed in range(images)])
        timed(m, name, lambda: maxherding(x, budget, bandwidth=WIDTH, backend="cuda"), True, goal)

    return run


def matrix_free(m: Machine, backend: str) -> GpuBackend:
    """A backend without the matrix; in miniature with tiles and lists to match."""
    own = BACKENDS[backend]
    tuning = replace(own.tuning, tile_points=m.pick(8192, 64), max_entries=m.pick(3 << 30, 5000))
    return replace(own, path="matrix-free", tuning=tuning)


def select_without_matrix(name: str, sizes, miniature, goal: float, limit: int | None) -> Callable[[Machine], None]:
    def run(m: Machine) -> None:
        n, d, budget = m.pick(sizes, miniature)
        x, own = clusters(m, n, d), matrix_free(m, "cuda")

        @torch.no_grad()
        def go() -> object:
            return own.run(prepare(x, budget, bandwidth=WIDTH, memory_limit=m.pick(limit, None)))

        timed(m, name, go, False, goal)

    return run


def scores(m: Machine) -> None:
    """Two types in two layouts; of Triton one, since each has to be compiled here."""
    images, places, samples, classes = m.pick((64, 65_536, 5, 19), (2, 101, 3, 5))
    count = m.pick(1 << 28, 1 << 12)
    source, target = torch.ones(count, device=m.device), torch.empty(count, device=m.device)
    copy, _ = m.time(lambda: target.copy_(source), 3)
    draws = torch.randn(images, samples, classes, places, device=m.device)
    draw = torch.randn(images, classes, places, device=m.device)
    cases = [(dtype, side) for dtype in (torch.float32, torch.bfloat16) for side in ("positions", "classes")]
    for backend, dtype, side in [("cuda", *case) for case in cases] + [("triton", torch.float32, "positions")]:
        x, single = draws.to(dtype), draw.to(dtype)
        if side == "classes":
            x, single = (t.transpose(-1, -2).contiguous().transpose(-1, -2) for t in (x, single))
        run = partial(edald, x, single, sample_dim=1, class_dim=2, backend=backend)
        seconds, _ = m.time(run, 5)
        moved = x.element_size() * (x.numel() + single.numel()) + 4 * images * places
        share = moved / seconds * copy / 8 / count
        names = {"backend": backend, "type": str(dtype).removeprefix("torch."), "side_by_side": side}
        say(case="edald", **names, seconds=seconds, share_of_copy_bandwidth=share)


def gather(m: Machine) -> None:
    images, per = m.pick((100, 50), (2, 5))
    blocks = m.pick(BLOCKS, ((8, 4), (4, 8)))
    maps = [
        torch.empty(images, c, s, s, dtype=torch.bfloat16, device=m.device).normal_()
        for _ in range(TIMESTEPS)
        for c, s in blocks
    ]
    points = torch.randint(256, (images * per, 2), device=m.device)
    image = torch.arange(images, device=m.device).repeat_interleave(per)
    for backend in ("cuda", "triton"):
        run = lambda own=backend: hypercolumns(maps, points, (256, 256), image_index=image, backend=own)  # noqa: E731
        say(case="hypercolumns", backend=backend, images=images, seconds=m.time(run, 5)[0])


def products(m: Machine) -> None:
    """Operations a second of the product, half of the square, with its kernel function; with two and three stages, and
    beside torch's product of the whole square."""
    n, d = m.pick((10_000, 6144), (70, 200))
    for dtype in (torch.bfloat16, torch.float32):
        x = clusters(m, n, d, dtype=dtype)
        (p,) = prepare(x, 2, bandwidth=WIDTH).problems
        out = torch.empty(n, n, device=m.device)
        own = CudaOperands(p, BACKENDS["cuda"].tuning)
        before = gpu_operands.stages_on
        for stages in m.pick((2, 3), (2,)):
            gpu_operands.stages_on = lambda device, own=stages: own
            with contextlib.suppress(RuntimeError), _triton.on(m.device):  # three stages are too many for some
                seconds, _ = m.time(lambda own=own, out=out: own.fill(out, own.every, own.every, mirrored=True), 3)
                say(
                    case="products", features=str(dtype), stages=stages, seconds=seconds, operations=n * n * d / seconds
                )
        gpu_operands.stages_on = before
        seconds, _ = m.time(lambda x=x: torch.mm(x, x.T), 3)
        say(case="products", features=str(dtype), by="torch.mm", seconds=seconds, operations=2 * n * n * d / seconds)


def bench_dry_run(m: Machine) -> None:
    sys.argv = ["bench_gpu.py", "--dry-run"]
    runpy.run_path(str(ROOT / "bench/bench_gpu.py"), run_name="__main__")


STEPS: dict[str, Callable[[Machine], None]] = {
    "facts": facts,
    "product": product,
    "pick": pick,
    "exact": exact,
    "local": select("local", (64, 10_000, 6144, 50), (2, 60, 16, 5), 0.15),
    "camvid": select("camvid", (1, 18_350, 6144, 9175), (1, 150, 16, 40), 0.2),
    "products": products,
    "edald": scores,
    "hypercolumns": gather,
    "cityscapes": select_without_matrix("cityscapes", (148_750, 6144, 74_375), (120, 8, 30), 10, 40 * 10**9),
    "million": select_without_matrix("million", (1_000_000, 512, 10_000), (130, 8, 15), 60, None),
    "bench-dry-run": bench_dry_run,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=list(STEPS))
    parser.add_argument("--no-gpu", action="store_true", help="in miniature, on emulated kernels")
    options = parser.parse_args()
    module = load("_cuda")
    if isinstance(module, str):
        sys.exit(module)
    if module.DEVICE == "cuda" and not torch.cuda.is_available():
        sys.exit("torch finds no GPU; `--no-gpu` runs in miniature")
    STEPS[options.step](Machine(torch.device(module.DEVICE), options.no_gpu))


if __name__ == "__main__":
    main()

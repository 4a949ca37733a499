"""Disagreement against what people write today: 65,536 positions, K=5, C=19, in the network's own (K, C, H, W).

    python bench/bench_disagreement.py                    prints the table, writes bench/results/cpu/
    pytest bench/bench_disagreement.py --benchmark-only   the same cases under pytest-benchmark

Every case computes the entropy of the mean and BALD, and is compared with float64 before it is timed. In a
run of its own the cases take turns, so that each ratio is between times of the same minute.
"""

from command import no_options

if __name__ == "__main__":
    no_options(__doc__)

import json
import math
import os
import platform
import statistics
import time
from pathlib import Path

import pytest
import torch

import difal_kernels as dk
from difal_kernels import _cpu

K, C, H, W = 5, 19, 256, 256
RESULTS = Path(__file__).parent / "results" / "cpu" / "disagreement.json"
THREADS = 2
ROWS = 32  # the fastest of 1, 2, 4 .. 256


def float64_permuted(x):
    """Log-probabilities in (places, K, C), float64: the shape of the published acquisition functions."""
    log_p = x.permute(2, 3, 0, 1).reshape(-1, K, C).double().log_softmax(-1)
    log_mean = torch.logsumexp(log_p, 1) - math.log(K)
    entropy = -(log_mean.exp() * log_mean).sum(-1)
    return entropy, entropy + (log_p.exp() * log_p).sum(-1).mean(-1)


def float32_log_softmax(x):
    log_p = x.log_softmax(1)
    p = log_p.exp()
    mean = p.mean(0)
    entropy = -(mean * mean.clamp_min(1e-30).log()).sum(0)
    return entropy, entropy + (p * log_p).sum(1).mean(0)


def float32_entr(x):
    p = x.softmax(1)
    entropy = torch.special.entr(p.mean(0)).sum(0)
    return entropy, entropy - torch.special.entr(p).sum(1).mean(0)


def float32_in_place(x):
    """The least traffic plain torch can do: one softmax, every other step in place."""
    p = x.softmax(1)
    mean = p.mean(0)
    entropy = mean.mul_(mean.clamp_min(1e-30).log_()).sum(0).neg_()
    logs = p.clamp_min(1e-30).log_()
    return entropy, entropy + p.mul_(logs).sum(1).mean(0)


def float32_in_place_by_rows(x):
    """The same, some image rows at a time, so that what a step leaves for the next is still in the cache."""
    parts = [float32_in_place(some) for some in x.split(ROWS, dim=2)]
    return tuple(torch.cat(whole) for whole in zip(*parts, strict=True))


def float32_mean_kl(x):
    """BALD as a mean of KL(p_k, mean)."""
    log_p = x.log_softmax(1)
    p = log_p.exp()
    mean = p.mean(0)
    log_mean = mean.clamp_min(1e-30).log()
    entropy = -(mean * log_mean).sum(0)
    return entropy, (p * log_p.sub_(log_mean)).sum(1).mean(0)


def ours(x):
    return tuple(dk.disagreement(x, sample_dim=0, class_dim=1, backend="cpu").values())


def ours_edald(x):
    return dk.edald(x, x[0], sample_dim=0, class_dim=1, backend="cpu")


CASES = {
    "float64 over a permuted copy": float64_permuted,
    "float32, log_softmax": float32_log_softmax,
    "float32, softmax and entr": float32_entr,
    "float32, in place": float32_in_place,
    "float32, in place, by rows": float32_in_place_by_rows,
    "float32, mean KL": float32_mean_kl,
    "difal_kernels": ours,
}
OURS_ELSEWHERE = {
    "(K, H, W, C)": (lambda x: x.permute(0, 2, 3, 1).contiguous(), 0, 3),
    "(H, W, K, C)": (lambda x: x.permute(2, 3, 0, 1).contiguous(), 2, 3),
    "(K, C, H, W) bfloat16": (lambda x: x.bfloat16(), 0, 1),
    "(K, C, H, W) float16": (lambda x: x.half(), 0, 1),
    "(K, C, H, W) float64": (lambda x: x.double(), 0, 1),
}


def logits():
    return torch.randn(K, C, H, W, generator=torch.Generator().manual_seed(0)) * 3


@pytest.fixture(scope="module")
def x():
    torch.set_num_threads(THREADS)
    return logits()


def assert_right(x, case, tolerance):
    for got, expected in zip(case(x), float64_permuted(x), strict=True):
        error = float((got.reshape(-1) - expected).abs().max())
        if error > tolerance:
            raise RuntimeError(f"{case.__name__} is wrong by {error}: no time is reported")


@pytest.mark.parametrize("name", CASES)
def test_disagreement(benchmark, x, name):
    assert_right(x, CASES[name], 1e-6 if name == "difal_kernels" else 1e-5)
    benchmark.group = f"entropy and BALD, {H * W} places, K={K}, C={C}"
    benchmark(CASES[name], x)


def wall(functions, x, rounds):
    """Milliseconds of each function, `rounds` times, taking turns."""
    for function in functions.values():
        function(x)
    times = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            time.sleep(0.02)  # torch's helper threads spin for a while after the function before
            start = time.perf_counter()
            function(x)
            times[name].append((time.perf_counter() - start) * 1e3)
    return times


def processor(function, x, rounds):
    """Least processor milliseconds on one thread: what other load on the machine disturbs least."""
    times = []
    torch.set_num_threads(1)
    for _ in range(rounds):
        start = time.process_time()
        function(x)
        times.append((time.process_time() - start) * 1e3)
    torch.set_num_threads(THREADS)
    return min(times)


def main():
    torch.set_num_threads(THREADS)
    x = logits()
    for name, case in CASES.items():
        assert_right(x, case, 1e-6 if name == "difal_kernels" else 1e-5)
    functions = {**CASES, "difal_kernels, edald": ours_edald}
    times = wall(functions, x, rounds=15)
    cpu = {name: processor(function, x, rounds=5) for name, function in functions.items()}
    for layout, (convert, sample_dim, class_dim) in OURS_ELSEWHERE.items():
        y, name = convert(x), f"difal_kernels, {layout}"

        def run(z, sample_dim=sample_dim, class_dim=class_dim):
            return dk.disagreement(z, sample_dim=sample_dim, class_dim=class_dim, backend="cpu")

        times[name] = wall({"": run}, y, rounds=15)[""]
        cpu[name] = processor(run, y, rounds=5)
    ours_ms, ours_cpu = statistics.median(times["difal_kernels"]), cpu["difal_kernels"]
    rows = [
        {
            "case": name,
            "p20_ms": statistics.quantiles(values, n=5)[0],
            "p50_ms": statistics.median(values),
            "p80_ms": statistics.quantiles(values, n=5)[3],
            "ratio": statistics.median(values) / ours_ms,
            "cpu_ms": cpu[name],
            "cpu_ratio": cpu[name] / ours_cpu,
        }
        for name, values in times.items()
    ]
    print(f"{'case':38} {'p20 ms':>8} {'p50 ms':>8} {'p80 ms':>8} {'ratio':>6} {'cpu ms':>8} {'ratio':>6}")
    for row in rows:
        numbers = (row[key] for key in ("p20_ms", "p50_ms", "p80_ms", "ratio", "cpu_ms", "cpu_ratio"))
        print("{:38} {:8.1f} {:8.1f} {:8.1f} {:6.1f} {:8.1f} {:6.1f}".format(row["case"], *numbers))
    about = {
        "command": "python bench/bench_disagreement.py",
        "places": H * W,
        "K": K,
        "C": C,
        "threads": THREADS,
        "isa": _cpu.isa(),
        "machine": platform.machine(),
        "load_average": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
        "version": dk.__version__,
    }
    for row in rows:
        row.update({key: round(value, 3) for key, value in row.items() if key != "case"})
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps({**about, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()

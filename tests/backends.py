"""Which backends a test can ask for."""

from difal_kernels import available_backends
from difal_kernels._native import load


def for_cpu_tensors(op: str) -> tuple[str, ...]:
    """Backends that take tensors on the CPU: all but the GPU's, and CUDA's where it is the emulated one (tests/gpu)."""
    emulated = getattr(load("_cuda"), "DEVICE", None) == "cpu"
    return tuple(b for b in available_backends(op) if b not in ("triton", "cuda") or (b == "cuda" and emulated))

"""How many warps of a kernel a multiprocessor of an H100 (sm_90) holds at a time, counted as NVIDIA's occupancy
calculator does (cuda_occupancy.h)."""

from __future__ import annotations

ARCH = "90"
WARPS, BLOCKS = 64, 32  # at most
REGISTERS = 65_536 // 4  # of each of the four parts that a warp may be in
SHARED, RESERVED = 228 << 10, 1 << 10  # bytes of shared memory, of which every block takes some for the system


def resident_warps(threads: int, registers: int, shared: int) -> int:
    """Warps, given the threads of a block, the registers of a thread and the bytes of shared memory of a block."""
    warps = -(-threads // 32)
    by_registers = REGISTERS // (-(-registers // 8) * 8 * 32) * 4 // warps
    by_shared = SHARED // (-(-shared // 128) * 128 + RESERVED)
    return warps * min(BLOCKS, WARPS // warps, by_registers, by_shared)

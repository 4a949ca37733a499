"""Collectives of one process group: counted, and with an error that says what to do when a rank is lost."""

from __future__ import annotations

import atexit
import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

TIMEOUT = 50.0  # seconds a rank waits for the others; `DIFAL_DISTRIBUTED_TIMEOUT` names another


class RankLostError(RuntimeError):
    """Another rank died, or did not answer in time."""


def default_timeout() -> float:
    """Seconds after which a rank that does not answer counts as lost."""
    return seconds_from("DIFAL_DISTRIBUTED_TIMEOUT", TIMEOUT)


def seconds_from(variable: str, default: float) -> float:
    """Seconds from an environment variable.

    Raises:
        ValueError: it is set and is not a positive number.
    """
    text = os.environ.get(variable, str(default))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(f"`{variable}` must be a positive number of seconds, got {text!r}")
    return seconds


def connect(device: str | torch.device = "cpu", timeout: float | None = None) -> int:
    """Join the process group that `torchrun` describes in the environment; returns this process's rank.

    Args:
        device: where features will be: gloo for the CPU, nccl for CUDA devices.
        timeout: seconds after which a rank that does not answer counts as lost; 50, or `DIFAL_DISTRIBUTED_TIMEOUT`.

    Raises:
        ValueError: `timeout` is not positive.
        RuntimeError: the environment describes no group, or a group is open already.
    """
    timeout = default_timeout() if timeout is None else timeout
    if not timeout > 0:
        raise ValueError(f"`timeout` must be a positive number of seconds, got {timeout}")
    missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise RuntimeError(f"{', '.join(missing)} not set; start with torchrun, which sets them")
    if dist.is_initialized():
        raise RuntimeError("a process group is open already; use that one")
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) if device.index is None else device.index)
    # nccl moves what is on GPUs and nothing else; with it, too, gloo moves what is on the CPU.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
    atexit.register(_disconnect)  # gloo's threads abort a process that ends with them running
    return dist.get_rank()


def _disconnect() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


class Group:
    """The ranks of `group`, or this process alone where torch.distributed is not initialised."""

    def __init__(self, group: Any, device: torch.device):
        self.group, self.device, self.bytes = group, device, 0
        alone = group is None and not (dist.is_available() and dist.is_initialized())
        self.rank, self.size = (0, 1) if alone else (dist.get_rank(group), dist.get_world_size(group))
        if self.rank < 0:
            raise ValueError("this process is not in `group`")

    def _run(self, function, tensor: torch.Tensor, *args: Any, **options: Any) -> None:
        self.bytes += tensor.numel() * tensor.element_size()
        try:
            function(tensor, *args, group=self.group, **options)
        except RuntimeError as error:
            raise RankLostError(
                f"rank {self.rank} of {self.size}: another rank died or did not answer in time "
                f"({str(error).splitlines()[0]}); see its own error, then start all ranks again with the same command"
            ) from error

    def broadcast(self, tensor: torch.Tensor, source: int) -> torch.Tensor:
        """`tensor` of rank `source`, on all; of any dtype, since its bytes travel."""
        if self.size > 1 and tensor.numel():
            root = source if self.group is None else dist.get_global_rank(self.group, source)
            self._run(dist.broadcast, tensor.view(torch.uint8), root)
        return tensor

    def gather(self, values: list[float], dtype: torch.dtype) -> torch.Tensor:
        """(ranks, len(values)) of what each rank has, on the CPU."""
        own = torch.tensor([values], dtype=dtype)
        if self.size == 1:
            return own
        out = torch.zeros(self.size, len(values), dtype=dtype, device=self.device)
        own = own.to(self.device)
        self._run(lambda t, group: dist.all_gather(list(out.split(1)), t, group=group), own)
        return out.cpu()

    def texts(self, text: str) -> list[str]:
        """A text of each rank."""
        data = text.encode()
        sizes = self.gather([len(data)], torch.int64)[:, 0].tolist()
        found = []
        for rank, size in enumerate(sizes):
            own = torch.tensor(list(data), dtype=torch.uint8) if rank == self.rank else torch.empty(size).byte()
            found.append(bytes(self.broadcast(own.to(self.device), rank).cpu().tolist()).decode())
        return found

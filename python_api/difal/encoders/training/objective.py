"""The denoising loss of a step and its gradient, the same to the bit on any number of threads."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Executor

import torch
import torch.nn.functional as F

from difal.encoders.training.crops import CropSource
from difal.files import derive_seed

SHARD = 4  # crops of the largest side that one CPU thread takes at a time
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # noisy crops, what to predict, timesteps


def draw_timesteps(count: int, total: int, rng: torch.Generator) -> torch.Tensor:
    """Of 1000 steps, 60 % uniform in 20..400, where features are read, the rest in 150..600, where context matters."""
    low = torch.randint(20 * total // 1000, 400 * total // 1000 + 1, (count,), generator=rng)
    high = torch.randint(150 * total // 1000, 600 * total // 1000 + 1, (count,), generator=rng)
    return torch.where(torch.rand(count, generator=rng) < 0.6, low, high)


def make_batch(source: CropSource, scheduler, crops: int, seed: int, step: int) -> Batch:
    """What step number `step` trains on: a function of (seed, step) alone, so a resumed run draws the same."""
    rng = torch.Generator().manual_seed(derive_seed("train-encoder", seed, step))
    images = source.draw(crops, rng)
    noise = torch.randn(images.shape, generator=rng)
    timesteps = draw_timesteps(len(images), scheduler.config.num_train_timesteps, rng)
    kind = scheduler.config.prediction_type
    if kind == "v_prediction":
        target = scheduler.get_velocity(images, noise, timesteps)
    else:
        target = {"epsilon": noise, "sample": images}[kind]
    return scheduler.add_noise(images, noise, timesteps), target, timesteps


def loss_and_gradients(
    unet: torch.nn.Module, batch: Batch, crops: int, bfloat16: bool, map_on: Callable
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Mean squared error over the batch, and its gradient for each of the network's parameters.

    A CPU takes the batch in shards of `SHARD` crops' pixels, each on one thread, and adds the gradients up in the
    shards' order: no sum depends on how many threads there are. Another device takes it whole.

    Args:
        unet: the network; its parameters' `grad` are not touched.
        batch: from `make_batch`.
        crops: how many crops of the largest side the batch is worth.
        bfloat16: run the network under autocast.
        map_on: `map`, or an executor's, whose threads have one torch thread each.
    """
    parameters = list(unet.parameters())
    device = parameters[0].device
    total = batch[1].numel()

    def one(shard: Batch) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        noisy, target, timesteps = (tensor.to(device, non_blocking=True) for tensor in shard)
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            output = unet(noisy.contiguous(memory_format=torch.channels_last), timesteps).sample
        loss = F.mse_loss(output.float(), target, reduction="sum") / total
        return loss.detach(), torch.autograd.grad(loss, parameters)

    shards = max(1, crops // SHARD) if device.type == "cpu" else 1
    found = list(map_on(one, zip(*(tensor.tensor_split(shards) for tensor in batch), strict=True)))
    loss, gradients = found[0][0], list(found[0][1])
    for more, others in found[1:]:
        loss = loss + more
        torch._foreach_add_(gradients, list(others))
    return loss, gradients


class Ahead:
    """Batches of the steps from `first` on, drawn by the executor's threads before they are asked for."""

    def __init__(self, make: Callable[[int], Batch], first: int, executor: Executor, depth: int):
        self.make, self.executor = make, executor
        self.next = first
        self.waiting = [self._submit() for _ in range(depth)]

    def _submit(self):
        self.next += 1
        return self.executor.submit(self.make, self.next - 1)

    def take(self) -> Batch:
        self.waiting.append(self._submit())
        return self.waiting.pop(0).result()


class Stopwatch:
    """Wall and CPU seconds of this process, on top of those of earlier ones."""

    def __init__(self, wall: float = 0.0, cpu: float = 0.0):
        self._wall, self._cpu = time.monotonic() - wall, time.process_time() - cpu

    @property
    def wall(self) -> float:
        return time.monotonic() - self._wall

    @property
    def cpu(self) -> float:
        return time.process_time() - self._cpu

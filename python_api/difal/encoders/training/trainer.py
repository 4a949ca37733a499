"""Train a diffusion UNet on a pool's unlabeled images, to read features from."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from difal.data.base import Split
from difal.encoders.diffusion import DiffusionEncoder
from difal.encoders.training.crops import CropSource
from difal.encoders.training.curve import plot_loss
from difal.encoders.training.networks import SCRATCH, SIZES, start_digest, start_encoder
from difal.encoders.training.objective import SHARD, Ahead, Stopwatch, loss_and_gradients, make_batch
from difal.errors import ConfigError
from difal.files import crash_point, digest, exclusive, read_json, write_bytes, write_json, write_text
from difal.threads import one_thread

WORK = "training"  # folder inside the encoder's
WARMUP = 300  # steps of linear growth of the step width
DECAY_FROM = 1000  # the step width falls with the square root of step / DECAY_FROM
AVERAGE_POWER = 6.94  # the averaged weights span about the last tenth of the steps, however many there are
FINE_TUNING_RATE = 1e-4  # for an encoder of unknown size
LOG_EVERY = 50  # steps
SAVE_SECONDS = 120.0
FLAGS = {"pool": "data", "crops": "batch"}


@dataclass(frozen=True)
class Settings:
    """What the weights after a number of steps depend on; an interrupted training must be resumed with the same."""

    pool: str  # digest
    start: str
    start_weights: str | None  # digest
    size: str | None
    resolution: int
    crops: int
    learning_rate: float
    seed: int
    jitter: bool
    shares: str | None  # digest
    bfloat16: bool


class Trained(NamedTuple):
    """What a training has come to."""

    steps: int
    seconds: float  # of training, all calls together
    cpu_seconds: float
    loss: float  # mean of the last `LOG_EVERY` steps logged; of all steps, where they are fewer


def train_encoder(
    pool: Split,
    out: str | Path,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    start: str | None = None,
    size: str | None = None,
    resolution: int | None = None,
    batch: int = 8,
    learning_rate: float | None = None,
    seed: int = 0,
    shares: Sequence[float] | None = None,
    jitter: bool = False,
    device: str | torch.device = "cpu",
    threads: int = 0,
) -> Trained:
    """Train a diffusion encoder on the images of a pool, or go on with a training.

    The network learns to tell the noise in random crops of the pool's images (v-prediction, or what the start's
    schedule predicts). AdamW; the step width grows for `WARMUP` steps, then falls with the square root of the step;
    weights are averaged over about the last tenth of the steps. None of it depends on how long the training will
    be, so it can be stopped, killed, resumed and prolonged: after n steps the weights are the same, on a CPU to the
    bit, whatever the number of threads.

    Args:
        pool: the images; masks are not read.
        out: folder of the encoder, new, empty or that of a training with the same settings. Besides the encoder it
            holds `loss.csv`, `loss.png` and `training/`, from which to go on, which may be deleted.
        minutes: stop when this much time went into training, all calls together.
        steps: stop after this many steps, all calls together.
        start: `tiny`, `scratch`, or an encoder's folder; default: `tiny`, or `scratch` if there is a `size`.
        size: `tiny`, `small` or `base`, for `scratch`; default: `tiny`.
        resolution: shorter side in pixels at which the encoder will read images; default: the start's.
        batch: crops a step, a multiple of 4; smaller crops come in larger number.
        learning_rate: of AdamW, at its largest; default: by the size, and 1e-4 for an encoder's folder.
        seed: of the crops, the noise and the weights of `scratch`.
        shares: of the crops, by image.
        jitter: change the crops' colours at random; for pools of a few images.
        device: torch device.
        threads: CPU threads, 0 for torch's choice; more than batch / 4 find no work.

    Returns:
        Steps, seconds and the last loss.

    Raises:
        ConfigError: an argument cannot work, or differs from what the training in `out` began with.
        DataError: images that cannot be used; names them.

    References:
        Karras et al., Analyzing and Improving the Training Dynamics of Diffusion Models, CVPR 2024 (averaging, decay).
    """
    out, device = Path(out), torch.device(device)
    if minutes is None and steps is None:
        raise ConfigError("`minutes` or `steps` must say when to stop")
    for name, value in (("minutes", minutes), ("steps", steps), ("learning_rate", learning_rate)):
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"`{name}` must be above 0 and finite, got {value}")
    if size is not None and size not in SIZES:
        raise ConfigError(f"`size` must be one of {', '.join(SIZES)}, got {size!r}")
    if batch < SHARD or batch % SHARD:
        raise ConfigError(f"`batch` must be a multiple of {SHARD}, at least {SHARD}, got {batch}")
    if seed < 0 or threads < 0:
        raise ConfigError(f"`seed` and `threads` must be at least 0, got {seed} and {threads}")
    start = start or ("tiny" if size is None else SCRATCH)
    if start != SCRATCH and size is not None:
        raise ConfigError(f"`size` is for a start from scratch, but `start` is {start!r}; leave one of them out")
    size = size or "tiny"
    work = out / WORK
    if out.exists() and not work.is_dir() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"`out` must be a new or empty folder, or that of a training, got {out}")
    encoder, side = start_encoder(start, size, seed, resolution)
    settings = Settings(
        pool=digest(pool.fingerprint()),
        start=start,
        start_weights=start_digest(start),
        size=size if start == SCRATCH else None,
        resolution=side,
        crops=batch,
        learning_rate=learning_rate or (SIZES[size].learning_rate if start in (SCRATCH, "tiny") else FINE_TUNING_RATE),
        seed=seed,
        jitter=jitter,
        shares=None if shares is None else digest(list(shares)),
        bfloat16=has_bfloat16(device),
    )
    with exclusive(work):
        settings = _begin_or_check(work / "settings.json", settings)
        source = CropSource(pool, work, side, encoder.stride, shares, jitter)
        training = Training(encoder, settings, out, device)
        training.resume()
        threads = threads or torch.get_num_threads()
        with one_thread():
            return training.run(source, minutes, steps, threads)


def has_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32: on GPUs that have it, and on CPUs with AMX."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return device.type == "cpu" and getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()


def learning_rate_at(step: int, highest: float) -> float:
    """Warm-up, then inverse square root decay."""
    return highest * min(1.0, (step + 1) / WARMUP) / math.sqrt(max(1.0, step / DECAY_FROM))


class Training:
    """A network in training, its optimizer, the average of its weights, and the folder they are saved in."""

    def __init__(self, encoder: DiffusionEncoder, settings: Settings, out: Path, device: torch.device):
        self.encoder, self.settings, self.out = encoder, settings, out
        self.unet = deepcopy(encoder.unet).requires_grad_(True)
        self.unet.to(device, memory_format=torch.channels_last)
        self.average = deepcopy(self.unet).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.unet.parameters(), settings.learning_rate, betas=(0.9, 0.99), weight_decay=0.01
        )
        self.device, self.step, self.watch = device, 0, Stopwatch()
        self.history: list[tuple[int, float, float, float]] = []  # step, mean loss, step width, seconds
        self.recent, self.counted = torch.zeros((), device=device), 0

    def run(self, source: CropSource, minutes: float | None, steps: int | None, threads: int) -> Trained:
        """Train until the minutes or the steps are over, and save."""
        crops, scheduler = self.settings.crops, self.encoder.scheduler
        seconds = math.inf if minutes is None else 60 * minutes
        last = math.inf if steps is None else steps
        by_time = minutes is not None and steps is None
        workers = min(threads, crops // SHARD) if self.device.type == "cpu" else 1
        readers = 1 if self.device.type == "cpu" else max(1, threads - 1)
        make = partial(make_batch, source, scheduler, crops, self.settings.seed)
        saved = self.watch.wall
        with ExitStack() as stack:
            pools = (
                stack.enter_context(ThreadPoolExecutor(n, initializer=torch.set_num_threads, initargs=(1,)))
                for n in (workers, readers)
            )
            compute, read = pools
            batches = Ahead(make, self.step, read, readers + 1)
            stack.callback(read.shutdown, cancel_futures=True)
            total, unit = (seconds, "s") if by_time else (last, "step")
            done = min(total, self.watch.wall if by_time else self.step)
            bar = stack.enter_context(
                tqdm(desc="training", total=round(total), initial=round(done), unit=unit, mininterval=1.0)
            )
            while self.step < last and self.watch.wall < seconds:
                self.advance(batches.take(), compute.map if workers > 1 else map)
                crash_point("train-step")
                now = min(total, self.watch.wall if by_time else self.step)
                bar.update(round(now) - bar.n)
                if self.history:
                    bar.set_postfix_str(f"step {self.step}, loss {self.history[-1][1]:.4f}", refresh=False)
                if self.watch.wall - saved > SAVE_SECONDS:
                    self.save()
                    saved = self.watch.wall
        self.save()
        losses = [loss for _, loss, _, _ in self.logged()]
        return Trained(self.step, self.watch.wall, self.watch.cpu, losses[-1] if losses else math.nan)

    def advance(self, batch, map_on) -> None:
        """One step."""
        rate = learning_rate_at(self.step, self.settings.learning_rate)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss, gradients = loss_and_gradients(self.unet, batch, self.settings.crops, self.settings.bfloat16, map_on)
        parameters: list[torch.Tensor] = list(self.unet.parameters())
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        self.optimizer.step()
        self.step += 1
        kept = (1 - 1 / (self.step + 1)) ** (AVERAGE_POWER + 1)
        torch._foreach_lerp_(list(self.average.parameters()), parameters, 1 - kept)
        self.recent, self.counted = self.recent + loss, self.counted + 1
        if self.step % LOG_EVERY == 0:
            self._log(rate)

    def _log(self, rate: float) -> None:
        self.history.append((self.step, self._recent_mean(), rate, self.watch.wall))
        self.recent, self.counted = torch.zeros((), device=self.device), 0

    def _recent_mean(self) -> float:
        """The mean loss since the last that was logged, which must be a number."""
        mean = float(self.recent) / self.counted
        if not math.isfinite(mean):
            raise ConfigError(
                f"the loss is {mean} at step {self.step}: the network no longer learns; delete {self.out} and begin "
                f"again with a lower --learning-rate than {self.settings.learning_rate:g}"
            )
        return mean

    def logged(self) -> list[tuple[int, float, float, float]]:
        """The losses logged; in a training too short for one, the mean of the steps so far."""
        if self.history or not self.counted:
            return self.history
        rate = learning_rate_at(self.step - 1, self.settings.learning_rate)
        return [(self.step, self._recent_mean(), rate, self.watch.wall)]

    def save(self) -> None:
        """The state from which to go on, then the encoder as it is now, and the loss curve."""
        losses = self.logged()
        state = {
            "step": self.step,
            "wall": self.watch.wall,
            "cpu": self.watch.cpu,
            "unet": self.unet.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": self.history,
            "recent": self.recent,
            "counted": self.counted,
        }
        buffer = BytesIO()
        torch.save(state, buffer)
        write_bytes(self.out / WORK / "state.pt", buffer.getvalue())
        self._write_encoder()
        rows = [f"{step},{loss:.5f},{rate:.3e},{seconds:.1f}\n" for step, loss, rate, seconds in losses]
        write_text(self.out / "loss.csv", "".join(["step,loss,lr,seconds\n", *rows]))
        plot_loss(self.out)

    def _write_encoder(self) -> None:
        """The averaged weights in float16, in diffusers' layout; each file is whole at any moment."""
        fresh = self.out / WORK / "encoder"
        given = self.encoder
        unet = deepcopy(self.average).cpu().half()
        DiffusionEncoder(
            unet, given.scheduler, given.blocks, given.timesteps, resolution=given.resolution
        ).save_pretrained(fresh)
        for path in sorted(fresh.iterdir()):
            os.replace(path, self.out / path.name)
        fresh.rmdir()

    def resume(self) -> None:
        """Go on from the saved state, if there is one."""
        path = self.out / WORK / "state.pt"
        if not path.is_file():
            return
        try:
            state: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
            self.unet.load_state_dict(state["unet"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
        except Exception as error:  # unpickling raises many kinds
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ConfigError(f"{path} is damaged ({reason}); delete {self.out} and begin again") from None
        self.step, self.watch = state["step"], Stopwatch(state["wall"], state["cpu"])
        self.history = [tuple(row) for row in state["history"]]
        self.recent, self.counted = state["recent"], state["counted"]


def _begin_or_check(path: Path, settings: Settings) -> Settings:
    """Write the settings of a new training; those of one under way must be the same, but for the precision."""
    if not path.is_file():
        write_json(path, asdict(settings))
        return settings
    stored = read_json(path)
    for name, value in asdict(settings).items():
        if name != "bfloat16" and stored.get(name) != value:
            raise ConfigError(
                f"`{FLAGS.get(name, name)}` was {stored.get(name)!r} when the training in {path.parent.parent} began "
                f"and is {value!r} now; give it the old value, or train into another --out"
            )
    return Settings(**stored)

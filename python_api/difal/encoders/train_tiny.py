"""Train `tiny`, the embedded encoder: a small unconditional diffusion UNet on a dozen free photographs.

    python -m difal.encoders.train_tiny --out tiny_run --steps 20000

Runs on a CPU or a CUDA GPU, without network: the photographs ship inside the wheels of scikit-image and
scikit-learn. Writes `OUT/state.pt` every few minutes (the same command resumes from it), `OUT/loss.csv`, and
`OUT/encoder/`, a folder with the averaged weights in float16 for `difal.encoders.load_encoder`.
Needs torch, diffusers, safetensors, pillow, scikit-image, scikit-learn; not the rest of this package.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import math
import os
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DModel
from PIL import Image

# Wheel, file, share of the crops. Photographs alone, each with a free licence (see the model card); the scene
# with sky, buildings, trees and ground counts most, textures least.
PHOTOGRAPHS = (
    ("sklearn", "datasets/images/china.jpg", 5.0),
    ("skimage", "data/rocket.jpg", 2.0),
    ("skimage", "data/astronaut.png", 2.0),
    ("skimage", "data/coffee.png", 2.0),
    ("skimage", "data/chelsea.png", 2.0),
    ("sklearn", "datasets/images/flower.jpg", 2.0),
    ("skimage", "data/camera.png", 2.0),
    ("skimage", "data/coins.png", 0.5),
    ("skimage", "data/brick.png", 0.7),
    ("skimage", "data/grass.png", 0.7),
    ("skimage", "data/gravel.png", 0.7),
)
CHANNELS = (32, 64, 96, 128)
CROPS = (32, 48, 64)  # pixels; one side a step, so that GroupNorm meets several image sizes
PIXELS = 32 * 32 * 32  # a step
SCALES = 2.0 ** np.arange(0.0, -4.01, -1 / 3)  # of the pyramid; crops come from every scale that holds one


def build_unet(channels=CHANNELS) -> UNet2DModel:
    """The network: no attention, so that it runs at sizes it was not trained at."""
    levels = len(channels)
    return UNet2DModel(
        sample_size=128,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=tuple(channels),
        norm_num_groups=8,
        add_attention=False,
        down_block_types=("DownBlock2D",) * levels,
        up_block_types=("UpBlock2D",) * levels,
    )


def load_pyramids() -> tuple[list[list[torch.Tensor]], torch.Tensor]:
    """Each photograph at every scale and three aspects, uint8 (3, h, w), and the photographs' shares."""
    pyramids, shares = [], []
    for package, name, share in PHOTOGRAPHS:
        spec = find_spec(package)
        path = Path(spec.origin).parent / name if spec else None
        if path is None or not path.exists():
            raise SystemExit(f"{package}/{name} is missing: pip install scikit-image scikit-learn")
        image = Image.open(path).convert("RGB")
        levels = []
        for scale in SCALES:
            for aspect in (0.8, 1.0, 1.25):
                width, height = round(image.width * scale * aspect), round(image.height * scale / aspect)
                if min(width, height) < min(CROPS):
                    continue
                small = image.resize((width, height), Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC)
                levels.append(torch.from_numpy(np.asarray(small).transpose(2, 0, 1).copy()))
        pyramids.append(levels)
        shares.append(share)
    return pyramids, torch.tensor(shares)


def draw_crops(pyramids, shares, count: int, side: int, rng: torch.Generator) -> torch.Tensor:
    """(count, 3, side, side) float32 in [-1, 1]: scale, place, flip, colour at random."""
    crops = torch.empty(count, 3, side, side)
    for i, picture in enumerate(torch.multinomial(shares, count, replacement=True, generator=rng).tolist()):
        levels = [level for level in pyramids[picture] if min(level.shape[1:]) >= side]
        level = levels[torch.randint(len(levels), (), generator=rng)]
        top = torch.randint(level.shape[1] - side + 1, (), generator=rng)
        left = torch.randint(level.shape[2] - side + 1, (), generator=rng)
        crops[i] = level[:, top : top + side, left : left + side].float()
    crops /= 255
    flip = torch.rand(count, generator=rng) < 0.5
    crops[flip] = crops[flip].flip(-1)

    def uniform(low, high, *shape):
        return low + (high - low) * torch.rand(count, *shape, generator=rng)

    crops = crops.pow(torch.exp(uniform(-0.5, 0.5, 1, 1, 1)))  # gamma
    gray = crops.mean(1, keepdim=True)
    crops = gray + (crops - gray) * uniform(0.2, 1.6, 1, 1, 1)  # saturation
    crops = crops * torch.exp(uniform(-0.15, 0.15, 3, 1, 1))  # white balance
    crops = (crops - 0.5) * uniform(0.6, 1.3, 1, 1, 1) + 0.5 + uniform(-0.15, 0.15, 1, 1, 1)
    return crops.clamp(0, 1) * 2 - 1


def draw_timesteps(count: int, rng: torch.Generator) -> torch.Tensor:
    """60 % uniform in 20..400, where features are read, the rest in 150..600, where context matters more."""
    low = torch.randint(20, 401, (count,), generator=rng)
    high = torch.randint(150, 601, (count,), generator=rng)
    return torch.where(torch.rand(count, generator=rng) < 0.6, low, high)


def learning_rate(step: int, args) -> float:
    if step < args.warmup:
        return args.lr * (step + 1) / args.warmup
    return args.lr * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / args.steps))))


def train_step(model, scheduler, pyramids, shares, step: int, args) -> torch.Tensor:
    """The loss of one step; its randomness is a function of (seed, step), so a resumed run draws the same."""
    rng = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
    side = CROPS[int(torch.randint(len(CROPS), (), generator=rng))]
    count = args.batch_scale * PIXELS // side**2
    images = draw_crops(pyramids, shares, count, side, rng)
    noise = torch.randn(images.shape, generator=rng)
    timesteps = draw_timesteps(count, rng)
    noisy = scheduler.add_noise(images, noise, timesteps)
    target = scheduler.get_velocity(images, noise, timesteps) if args.prediction == "v_prediction" else noise
    device = next(model.parameters()).device
    noisy, target, timesteps = (tensor.to(device, non_blocking=True) for tensor in (noisy, target, timesteps))
    with torch.autocast(device.type, torch.bfloat16, enabled=args.bfloat16):
        output = model(noisy.contiguous(memory_format=torch.channels_last), timesteps).sample
    return F.mse_loss(output.float(), target)


def save_encoder(folder: Path, weights: dict, scheduler, step: int) -> None:
    """The averaged weights as a diffusers folder, float16 safetensors."""
    model = build_unet()
    model.load_state_dict(weights)
    model.half().save_pretrained(folder)
    scheduler.save_pretrained(folder)
    (folder / "training.json").write_text(json.dumps({"steps": step}) + "\n")


def atomic_save(value: dict, path: Path) -> None:
    partial = path.with_suffix(".partial")
    torch.save(value, partial)
    os.replace(partial, path)


def train(args) -> None:
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    args.out.mkdir(parents=True, exist_ok=True)
    pyramids, shares = load_pyramids()
    scheduler = DDPMScheduler(num_train_timesteps=1000, prediction_type=args.prediction)
    model = build_unet().to(device, memory_format=torch.channels_last)
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0.01)
    state_path, loss_path, first = args.out / "state.pt", args.out / "loss.csv", 0
    if state_path.exists():
        state = torch.load(state_path, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
        rows = [row for row in csv.reader(loss_path.open()) if row[0] == "step" or int(row[0]) <= first]
        with loss_path.open("w", newline="") as file:
            csv.writer(file).writerows(rows)
        print(f"resumed at step {first}", flush=True)
    else:
        loss_path.write_text("step,loss,lr,seconds\n")
    start = saved = time.monotonic()
    recent, counted = torch.zeros((), device=device), 0
    for step in range(first, args.steps):
        rate = learning_rate(step, args)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = train_step(model, scheduler, pyramids, shares, step, args)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        decay = min(args.ema, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        recent += loss.detach()
        counted += 1
        done = step + 1
        if done % args.log_every == 0:
            mean, seconds = float(recent) / counted, time.monotonic() - start
            recent, counted = recent.zero_(), 0
            if not math.isfinite(mean):
                raise SystemExit(f"the loss is {mean} at step {done}: lower --lr (now {args.lr})")
            with loss_path.open("a", newline="") as file:
                csv.writer(file).writerow([done, f"{mean:.5f}", f"{rate:.3e}", f"{seconds:.1f}"])
            print(f"step {done}/{args.steps}  loss {mean:.4f}  lr {rate:.2e}  {seconds:.0f} s", flush=True)
        if done == args.steps or time.monotonic() - saved > 60 * args.save_minutes:
            saved = time.monotonic()
            state = {"step": done, "model": model.state_dict(), "average": average.state_dict()}
            atomic_save({**state, "optimizer": optimizer.state_dict()}, state_path)
            save_encoder(args.out / "encoder", state["average"], scheduler, done)


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the state, the loss and the encoder")
    parser.add_argument("--steps", type=int, default=20000)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--warmup", type=int, default=300, help="steps of linear warm-up")
    parser.add_argument("--ema", type=float, default=0.999, help="decay of the average of the weights")
    parser.add_argument(
        "--batch-scale", type=int, default=1, help="multiple of 32768 pixels a step (8 or more on a GPU)"
    )
    parser.add_argument("--prediction", choices=("epsilon", "v_prediction"), default="v_prediction")
    parser.add_argument("--bfloat16", action=argparse.BooleanOptionalAction, default=True, help="bfloat16 autocast")
    parser.add_argument("--device", default=None, help="cpu or cuda; default: cuda where there is one")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log-every", type=int, default=50, help="steps")
    parser.add_argument("--save-minutes", type=float, default=3.0)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    train(parse())

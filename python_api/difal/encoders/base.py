"""What every encoder shares: the protocol, reproducible noise, input checks, resizing, hypercolumns."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from safetensors import SafetensorError

from difal_kernels import hypercolumns
from difal_kernels._checks import as_int

SETTINGS = "difal_encoder.json"  # beside the weights: the settings of the encoder
RANGE_SLACK = 1e-3  # images this far beyond [-1, 1] are rounding, not a mistake


@runtime_checkable
class Encoder(Protocol):
    """What the loop reads of an encoder; `BaseEncoder` supplies all but the network itself.

    It also reads, where there are: `thread_safe`, whether several Python threads may call `maps` at once (they wait if
    not), and `fingerprint()`, twelve hex digits that change with weights and settings, by which features of other
    weights are told apart.
    """

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each map that `maps` returns, in its order."""
        ...

    def noise(
        self,
        image_ids: Sequence[int | str],
        height: int,
        width: int,
        *,
        seed: int,
        draw: int,
    ) -> torch.Tensor:
        """One tensor, B first, for `maps`: a function of seed, image id, timestep and `draw` alone.

        `draw` 0 gives the features; 1 to K are the noise samples behind DALD.
        """
        ...

    def maps(self, images: torch.Tensor, noise: torch.Tensor) -> list[torch.Tensor]:
        """(B, C_l, h_l, w_l) maps of (B, 3, H, W) images in [-1, 1], as many as `channels`."""
        ...


def noise_seed(seed: int, image_id: int | str | None, timestep: int, draw: int) -> int:
    """A 63-bit seed from the key: the same on every machine, whatever the batch, the rank or the order.

    Example:
        >>> noise_seed(0, "frame_7", 50, 0) == noise_seed(0, "frame_7", 50, 0)
        True
        >>> noise_seed(0, "7", 50, 0) == noise_seed(0, 7, 50, 0)
        False
    """
    key = json.dumps([seed, image_id, timestep, draw]).encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1


class BaseEncoder:
    """An encoder less its network: a subclass says `channels` and what one timestep yields, `activations`.

    Attributes:
        timesteps: noise levels, one group of maps each.
        resolution: shorter side, in pixels, that larger images are shrunk to before the network; None: never.
        stride: both sides of what the network sees are multiples of it.
        in_channels: channels of the images.
        thread_safe: whether several Python threads may call `maps` at once; the loop has them wait if not.
    """

    in_channels = 3
    thread_safe = False

    def __init__(self, *, timesteps: Sequence[int], resolution: int | None, stride: int):
        self.timesteps = tuple(timesteps)
        self._set_grid(resolution, stride)

    def _set_grid(self, resolution: int | None, stride: int) -> None:
        self.stride = stride
        self.resolution = None if resolution is None else as_int(resolution, "resolution", low=stride)

    # What a subclass supplies.

    @property
    def channels(self) -> tuple[int, ...]:
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        raise NotImplementedError

    def activations(self, images: torch.Tensor, noise: torch.Tensor, timestep: int) -> list[torch.Tensor]:
        """The maps of one timestep, for prepared images and noise (B, *noise_shape) on `device`."""
        raise NotImplementedError

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """What the network's passes share: done once, before the first timestep."""
        return images

    # What it gets.

    def working_size(self, height: int, width: int) -> tuple[int, int]:
        """The size at which the network sees an image of `height` x `width` pixels.

        Raises:
            ValueError: the size does not suit the network and there is no `resolution` to resize it to.
        """
        height, width = as_int(height, "height", low=1), as_int(width, "width", low=1)
        if self.resolution is None:
            if height % self.stride or width % self.stride:
                raise ValueError(
                    f"`images` must have sides divisible by {self.stride}, got {height} x {width}; "
                    f"resize or pad them, or build the encoder with `resolution`"
                )
            return height, width
        return self._on_grid(height, width, min(1.0, self.resolution / min(height, width)))

    def _on_grid(self, height: int, width: int, factor: float) -> tuple[int, int]:
        """The multiples of the stride nearest to both sides times `factor`."""
        height, width = (max(1, round(side * factor / self.stride)) * self.stride for side in (height, width))
        return height, width

    def noise_shape(self, height: int, width: int) -> tuple[int, ...]:
        """Shape of the noise of one image of `height` x `width` pixels at one timestep."""
        return (self.in_channels, *self.working_size(height, width))

    def noise(
        self,
        image_ids: Sequence[int | str],
        height: int,
        width: int,
        *,
        seed: int = 0,
        draw: int = 0,
        shared: bool = True,
    ) -> torch.Tensor:
        """Draw a batch's noise, each image's a function of (seed, image id, timestep, draw) alone.

        Args:
            image_ids: the B images' identifiers, int or str.
            height, width: size of the images in pixels.
            seed: of the whole experiment.
            draw: 0 is the fixed noise of the features, 1..K are the noise samples of DALD.
            shared: leave the image id out, so that all images get the same noise, as in the paper.

        Returns:
            (B, T, 3, h, w) float32 standard normal on the CPU, with (h, w) = working_size(height, width).

        Raises:
            TypeError, ValueError: an id that is neither int nor str, a negative seed or draw, an unfit size.
        """
        seed, draw = as_int(seed, "seed", low=0), as_int(draw, "draw", low=0)
        if isinstance(image_ids, str):
            raise TypeError(f"`image_ids` must be a sequence of ids, got the string {image_ids!r}; put it in a list")
        ids = [i if isinstance(i, str) else as_int(i, "image_ids") for i in image_ids]
        shape = self.noise_shape(height, width)

        def draw_one(image_id):
            generators = [torch.Generator().manual_seed(noise_seed(seed, image_id, t, draw)) for t in self.timesteps]
            return torch.stack([torch.randn(shape, generator=g) for g in generators])

        if shared:
            return draw_one(None).expand(len(ids), -1, *shape)
        return torch.stack([draw_one(i) for i in ids]) if ids else torch.empty(0, len(self.timesteps), *shape)

    def maps(self, images: torch.Tensor, noise: torch.Tensor) -> list[torch.Tensor]:
        """Run the network once a timestep and keep its activations.

        Args:
            images: (B, 3, H, W) float in [-1, 1].
            noise: (B, T, 3, h, w) as `noise` returns it, or (B, 3, h, w) for all timesteps.

        Returns:
            One (B, C, h_l, w_l) tensor for each timestep and, within it, each block; C as in `channels`.

        Raises:
            TypeError: not float tensors.
            ValueError: wrong channels, NaN, values outside [-1, 1], an unfit size, noise of another shape.
        """
        check_images(images, self.in_channels)
        shape = self.noise_shape(*images.shape[2:])
        noise = self._check_noise(images, noise, shape)
        size = self.working_size(*images.shape[2:])
        images = images.to(self.device)
        if size != tuple(images.shape[2:]):
            images = F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
        images, noise = self.prepare(images), noise.to(images.device)
        return [m for i, t in enumerate(self.timesteps) for m in self.activations(images, noise[:, i], t)]

    def hypercolumns(
        self,
        images: torch.Tensor,
        points: torch.Tensor,
        noise: torch.Tensor | None = None,
        *,
        image_index: torch.Tensor | None = None,
        normalize: bool = True,
        out_dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        """Read the maps, resized to the image, concatenated and L2-normalised, at `points`.

        Args:
            images: (B, 3, H, W) float in [-1, 1].
            points: (P, 2) integer (row, col) in an image.
            noise: as for `maps`; default: the shared fixed noise of seed 0.
            image_index: (P,) which image each point is in; may be left out for one image.
            normalize: scale each vector to length 1.
            out_dtype: of the answer; default: that of the maps.

        Returns:
            (P, sum(channels)).
        """
        if noise is None:
            check_images(images, self.in_channels)
            noise = self.noise(range(len(images)), *images.shape[2:])
        maps = self.maps(images, noise)
        height, width = images.shape[2:]
        return torch.as_tensor(
            hypercolumns(
                maps, points, (height, width), image_index=image_index, normalize=normalize, out_dtype=out_dtype
            )
        )

    def _check_noise(self, images, noise, shape) -> torch.Tensor:
        if not isinstance(noise, torch.Tensor) or not noise.is_floating_point():
            kind = noise.dtype if isinstance(noise, torch.Tensor) else type(noise).__name__
            raise TypeError(f"`noise` must be a float torch.Tensor, got {kind}; see `noise()`")
        one, each = (len(images), *shape), (len(images), len(self.timesteps), *shape)
        if tuple(noise.shape) not in (one, each):
            raise ValueError(f"`noise` must have shape {each} or {one} here, got {tuple(noise.shape)}; see `noise()`")
        return noise[:, None].expand(each) if noise.shape == one else noise


def plain_settings(config) -> str:
    """A model's configuration as text, without what changes when it is saved and loaded."""
    passing = ("dtype", "torch_dtype", "architectures", "transformers_version")
    kept = {k: v for k, v in dict(config).items() if not k.startswith("_") and k not in passing}
    return json.dumps(kept, sort_keys=True, default=str)


def hash_tensors(found, tensors: dict[str, torch.Tensor]) -> None:
    """Put names, types, shapes and values into a hashlib object."""
    for name, tensor in tensors.items():
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())


def check_images(images: torch.Tensor, channels: int = 3) -> None:
    """Raise unless `images` is (B, channels, H, W) float within [-1, 1]."""
    if not isinstance(images, torch.Tensor):
        raise TypeError(f"`images` must be a torch.Tensor, got {type(images).__name__}; use torch.from_numpy")
    if not images.is_floating_point():
        raise TypeError(f"`images` must be float in [-1, 1], got {images.dtype}; use images.float() / 127.5 - 1")
    if images.ndim != 4 or images.shape[1] != channels:
        raise ValueError(f"`images` must have shape (B, {channels}, H, W), got {tuple(images.shape)}")
    if images.numel() == 0:
        raise ValueError(f"`images` must not be empty, got shape {tuple(images.shape)}")
    low, high = (float(v) for v in torch.aminmax(images.detach()))
    if low != low:  # aminmax passes NaN on
        raise ValueError(f"`images` must be finite, got NaN at index {tuple(images.isnan().nonzero()[0].tolist())}")
    if low < -1 - RANGE_SLACK or high > 1 + RANGE_SLACK:
        raise ValueError(
            f"`images` must lie in [-1, 1], got values from {low:.6g} to {high:.6g}; "
            f"8-bit images become so by images / 127.5 - 1"
        )


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of an encoder's folder."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"`name`: {path} is not JSON ({error}); fetch the folder again") from None
    if not isinstance(values, dict):
        raise ValueError(f"`name`: {path} must hold a JSON object, got {type(values).__name__}; fetch the folder again")
    return values


def load_complete(maker: Any, folder: Path, what: str, unused: str | None = None, **options: Any) -> Any:
    """A diffusers or transformers model out of safetensors, with none of its weights drawn at random.

    Args:
        maker: the library's class, of which `from_pretrained` is called with `options`.
        folder: where the weights are.
        what: what to call the model in errors.
        unused: tensors whose names begin with this may be missing.

    Raises:
        ValueError: it cannot be read, or weights are missing, which both libraries only warn of.
    """
    try:
        model, found = maker.from_pretrained(str(folder), use_safetensors=True, output_loading_info=True, **options)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise ValueError(f"`name`: the {what} in {folder} could not be loaded: {error}") from error
    names = sorted(name for name in found["missing_keys"] if unused is None or not name.startswith(unused))
    if names:
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        raise ValueError(
            f"`name`: the weights in {folder} lack {', '.join(names[:8])}{more}; fetch or convert the folder again"
        )
    for parameter in model.parameters():  # out of the file's mapping: unaligned weights change the last bits
        parameter.data = parameter.data.clone()
    return model

"""Encoders: which activations, which noise, which errors; small random UNets, no network."""

import itertools

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers", reason="the loop's extra is not installed: pip install 'difal-kernels[loop]'")

from diffusers import DDPMScheduler, UNet2DModel

from api.small_unets import make_images, make_unet
from difal.encoders import BaseEncoder, DiffusionEncoder, Encoder
from difal.encoders.base import noise_seed
from difal.encoders.diffusion import decoder_blocks


def all_activations(unet, noisy, timestep):
    """What every decoder block yields in an undisturbed forward pass, read off one submodule at a time."""
    found = {}

    def watch(module, key):
        return module.register_forward_hook(lambda m, args, out: found.__setitem__(key, out))

    handles = []
    for i, level in enumerate(unet.up_blocks):
        attentions = getattr(level, "attentions", None)
        handles.append(watch(level, (i, "level")))
        for j in range(len(level.resnets)):
            handles.append(watch(attentions[j] if attentions else level.resnets[j], (i, j)))
    with torch.no_grad():
        final = unet(noisy, timestep).sample
    for handle in handles:
        handle.remove()
    blocks = []
    for i, level in enumerate(unet.up_blocks):
        last = len(level.resnets) - 1
        blocks += [found[i, "level"] if j == last else found[i, j] for j in range(last + 1)]
    return blocks, final


@pytest.mark.parametrize(("layers", "attention"), [(1, False), (2, False), (3, False), (1, True), (2, True), (3, True)])
def test_maps_are_the_decoder_blocks_of_a_full_pass(layers, attention):
    unet, scheduler, timesteps = make_unet(layers, attention), DDPMScheduler(), (20, 300)
    count = 3 * (layers + 1)
    encoder = DiffusionEncoder(unet, scheduler, range(count), timesteps)
    images = make_images(2)
    noise = encoder.noise(["a", "b"], 16, 24, seed=0, draw=0)
    maps = encoder.maps(images, noise)
    assert len(maps) == 2 * count
    assert tuple(m.shape[1] for m in maps) == encoder.channels
    for i, t in enumerate(timesteps):
        noisy = scheduler.add_noise(images, noise[:, i], torch.tensor([t, t]))
        expected, _ = all_activations(unet, noisy, t)
        for found, wanted in zip(maps[i * count : (i + 1) * count], expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_noising_is_the_formula():
    unet, images, seen = make_unet(), make_images(1), []
    encoder = DiffusionEncoder(unet, timesteps=(150,), blocks=(0,))
    unet.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    noise = encoder.noise([0], 16, 24)
    encoder.maps(images, noise)
    kept = np.prod(1 - np.linspace(1e-4, 0.02, 1000)[:151])
    torch.testing.assert_close(seen[0], kept**0.5 * images + (1 - kept) ** 0.5 * noise[:, 0], rtol=1e-5, atol=1e-5)


def test_numbering_at_the_papers_topology():
    with torch.device("meta"):
        unet = UNet2DModel(
            block_out_channels=(256, 256, 512, 512, 1024, 1024),
            down_block_types=["ResnetDownsampleBlock2D"] * 3 + ["AttnDownBlock2D"] * 3,
            up_block_types=["AttnUpBlock2D"] * 3 + ["ResnetUpsampleBlock2D"] * 3,
            downsample_type="resnet",
            upsample_type="resnet",
            attention_head_dim=64,
        )
    blocks, up = decoder_blocks(unet), unet.up_blocks
    assert len(blocks) == 18
    expected = {
        5: up[1],
        8: up[2],
        12: up[4].resnets[0],
        17: up[5],
        3: up[1].attentions[0],
        16: up[5].resnets[1],
    }
    for block, module in expected.items():
        assert blocks[block][0] is module
    assert [blocks[b][1] for b in (5, 8, 12, 17)] == [1024, 512, 256, 256]
    assert sum(DiffusionEncoder(unet).channels) == 6144


def test_the_pass_stops_after_the_last_block_and_leaves_the_unet_usable():
    unet = make_unet(layers=2)
    encoder = DiffusionEncoder(unet, blocks=(3, 1), timesteps=(10,))
    calls = []
    watched = (unet.up_blocks[1].resnets[0], unet.up_blocks[1].resnets[1], unet.conv_out)
    for i, module in enumerate(watched):
        module.register_forward_hook(lambda m, args, out, i=i: calls.append(i))
    images = make_images(1)
    maps = encoder.maps(images, encoder.noise([0], 16, 24))
    assert calls == []  # block 3 is up_blocks[1].resnets[0]: its own hook, the first, ends the pass
    assert encoder.channels == (16, 24)
    assert [m.shape[2:] for m in maps] == [(8, 12), (4, 6)]
    assert unet(images, 10).sample.shape == images.shape  # nobody's hook fires outside maps
    assert calls == [0, 1, 2]


def test_an_error_inside_the_network_is_not_swallowed_and_leaves_no_trace():
    unet = make_unet()
    encoder = DiffusionEncoder(unet, blocks=(5,), timesteps=(10,))
    noise = encoder.noise([0], 16, 24)

    def fail(module, args):
        raise RuntimeError("boom")

    handle = unet.mid_block.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="boom"):
        encoder.maps(make_images(1), noise)
    handle.remove()
    assert unet(make_images(1), 10).sample.shape == (1, 3, 16, 24)


def test_two_encoders_share_one_unet():
    unet, images = make_unet(), make_images(1)
    first = DiffusionEncoder(unet, blocks=(1,), timesteps=(10,))
    second = DiffusionEncoder(unet, blocks=(1, 4), timesteps=(10,))
    noise = first.noise([0], 16, 24)
    one, two = first.maps(images, noise), second.maps(images, noise)
    assert (len(one), len(two)) == (1, 2)
    assert torch.equal(one[0], two[0])


@pytest.mark.parametrize("shared", [True, False])
def test_nothing_depends_on_the_batch(shared):
    encoder = DiffusionEncoder(make_unet(attention=True), blocks=(1, 3), timesteps=(50, 250))
    ids, images = ["a", "b", 7], make_images(3)
    noise = encoder.noise(ids, 16, 24, seed=3, draw=2, shared=shared)
    together = encoder.maps(images, noise)
    for i in (2, 0, 1):
        alone = encoder.noise([ids[i]], 16, 24, seed=3, draw=2, shared=shared)
        assert torch.equal(alone[0], noise[i])
        for whole, part in zip(together, encoder.maps(images[i : i + 1], alone), strict=True):
            torch.testing.assert_close(whole[i : i + 1], part, rtol=1e-5, atol=1e-5)


def test_noise_differs_by_every_part_of_its_key_and_is_normal():
    encoder = DiffusionEncoder(make_unet(), blocks=(0,), timesteps=(50, 250))
    draw = encoder.noise(["a", "b"], 64, 64, seed=0, draw=0, shared=False)
    assert draw.shape == (2, 2, 3, 64, 64)
    assert draw.dtype == torch.float32
    assert abs(float(draw.mean())) < 0.02
    assert abs(float(draw.std()) - 1) < 0.02
    others = [
        draw[0, 0],
        draw[1, 0],
        draw[0, 1],
        encoder.noise(["a"], 64, 64, seed=1, draw=0, shared=False)[0, 0],
        encoder.noise(["a"], 64, 64, seed=0, draw=1, shared=False)[0, 0],
        encoder.noise(["a"], 64, 64, seed=0, draw=0)[0, 0],
    ]
    for a, b in itertools.combinations(others, 2):
        assert abs(float((a * b).mean())) < 0.05  # uncorrelated
    fixed = encoder.noise(["a", "b"], 64, 64)
    assert torch.equal(fixed[0], fixed[1])
    swapped = DiffusionEncoder(make_unet(), blocks=(0,), timesteps=(250,))  # the other timesteps do not matter
    assert torch.equal(swapped.noise(["a"], 64, 64)[0, 0], fixed[0, 1])


def test_noise_is_the_same_on_every_machine():
    assert noise_seed(0, "frame", 50, 0) == 6812157355038581822
    assert noise_seed(0, None, 50, 0) != noise_seed(0, "null", 50, 0)
    encoder = DiffusionEncoder(make_unet(), blocks=(0,), timesteps=(50,))
    start = encoder.noise(["frame"], 16, 16, shared=False)[0, 0, 0, 0, :3]
    assert start.tolist() == pytest.approx([-0.90519, -2.824, 0.579191], abs=1e-5)


def test_one_noise_for_all_timesteps():
    encoder = DiffusionEncoder(make_unet(), blocks=(2,), timesteps=(50, 250))
    images, noise = make_images(2), torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    each = encoder.maps(images, noise[:, None].expand(-1, 2, -1, -1, -1))
    for a, b in zip(encoder.maps(images, noise), each, strict=True):
        assert torch.equal(a, b)


def test_a_working_resolution_shrinks_larger_images_only():
    encoder = DiffusionEncoder(make_unet(), blocks=(5,), timesteps=(50,), resolution=32)
    assert encoder.stride == 4
    assert encoder.working_size(64, 64) == (32, 32)
    assert encoder.working_size(64, 97) == (32, 48)
    assert encoder.working_size(97, 64) == (48, 32)
    assert encoder.working_size(20, 30) == (20, 32)  # not enlarged, rounded to the stride
    assert encoder.working_size(1, 1) == (4, 4)
    images = make_images(1, 64, 96)
    noise = encoder.noise(["a"], 64, 96)
    assert noise.shape == (1, 1, 3, 32, 48)
    small = torch.nn.functional.interpolate(images, (32, 48), mode="bilinear", antialias=True)
    assert torch.equal(encoder.maps(images, noise)[0], encoder.maps(small, noise)[0])


def test_the_unet_is_frozen_and_maps_carry_no_graph():
    unet = make_unet().train()
    encoder = DiffusionEncoder(unet, blocks=(2,), timesteps=(50,))
    assert not unet.training
    assert not any(p.requires_grad for p in unet.parameters())
    images = make_images(1).requires_grad_()
    maps = encoder.maps(images, encoder.noise([0], 16, 24))
    assert not maps[0].requires_grad
    assert not maps[0].is_inference()  # a head may be trained on it


def test_autocast_changes_the_arithmetic_only():
    images, unet = make_images(1), make_unet()
    exact = DiffusionEncoder(unet, blocks=(4,), timesteps=(50,))
    fast = DiffusionEncoder(unet, blocks=(4,), timesteps=(50,), autocast=torch.bfloat16)
    noise = exact.noise([0], 16, 24)
    a, b = exact.maps(images, noise)[0], fast.maps(images, noise)[0].float()
    assert not torch.equal(a, b)
    assert float((a - b).norm() / a.norm()) < 0.05


def test_it_is_an_encoder_and_so_is_another_small_class():
    class Pixels(BaseEncoder):
        channels = (3,)
        device = torch.device("cpu")

        def activations(self, images, noise, timestep):
            return [images + timestep * noise]

    other = Pixels(timesteps=(0,), resolution=None, stride=1)
    images = make_images(2, 5, 7)
    assert torch.equal(other.maps(images, other.noise(["a", "b"], 5, 7))[0], images)
    assert isinstance(other, Encoder)
    assert isinstance(DiffusionEncoder(make_unet(), blocks=(0,)), Encoder)


def test_hypercolumns_are_resize_concatenate_gather_normalise():
    pytest.importorskip("difal_kernels.ops.hypercolumns", reason="hypercolumns is not built here")
    encoder = DiffusionEncoder(make_unet(attention=True), blocks=(1, 3, 5), timesteps=(50, 250))
    images = make_images(2)
    points = torch.tensor([[0, 0], [15, 23], [7, 11], [8, 3]])
    index = torch.tensor([0, 1, 1, 0])
    found = encoder.hypercolumns(images, points, image_index=index)
    maps = encoder.maps(images, encoder.noise([0, 1], 16, 24))
    dense = torch.cat([torch.nn.functional.interpolate(m, (16, 24), mode="bilinear") for m in maps], 1)
    rows = dense[index, :, points[:, 0], points[:, 1]]
    assert found.shape == (4, sum(encoder.channels))
    torch.testing.assert_close(found, rows / rows.norm(dim=1, keepdim=True), rtol=1e-5, atol=1e-5)
    raw = encoder.hypercolumns(images, points, image_index=index, normalize=False)
    torch.testing.assert_close(raw, rows, rtol=1e-5, atol=1e-5)


# Errors


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x: x.numpy(), TypeError, "`images` must be a torch.Tensor, got ndarray"),
        (lambda x: (x * 255).byte(), TypeError, r"`images` must be float in \[-1, 1\], got torch.uint8; use"),
        (lambda x: x[0], ValueError, r"`images` must have shape \(B, 3, H, W\), got \(3, 16, 24\)"),
        (lambda x: x[:, :2], ValueError, r"`images` must have shape \(B, 3, H, W\), got \(1, 2, 16, 24\)"),
        (lambda x: x[:0], ValueError, "`images` must not be empty"),
        (
            lambda x: (x + 1) * 127.5,
            ValueError,
            r"`images` must lie in \[-1, 1\], got values from .*/ 127.5 - 1",
        ),
        (
            lambda x: x.index_fill(2, torch.tensor(3), float("nan")),
            ValueError,
            r"finite, got NaN at index \(0, 0, 3, 0",
        ),
        (lambda x: x / 0, ValueError, "`images` must be finite|`images` must lie in"),
        (lambda x: x[..., :22], ValueError, "sides divisible by 4, got 16 x 22; resize or pad"),
    ],
)
def test_bad_images(change, error, message):
    encoder = DiffusionEncoder(make_unet(), blocks=(0,), timesteps=(50,))
    with pytest.raises(error, match=message):
        encoder.maps(change(make_images(1)), encoder.noise([0], 16, 24))


@pytest.mark.parametrize(
    ("noise", "error"),
    [
        (torch.zeros(1, 3, 16, 16), ValueError),
        (torch.zeros(2, 3, 16, 24), ValueError),
        (torch.zeros(1, 2, 3, 16, 24), ValueError),
        (torch.zeros(1, 3, 16, 24, dtype=torch.long), TypeError),
        (np.zeros((1, 3, 16, 24)), TypeError),
    ],
)
def test_bad_noise(noise, error):
    encoder = DiffusionEncoder(make_unet(), blocks=(0,), timesteps=(50,))
    with pytest.raises(error, match="`noise` must"):
        encoder.maps(make_images(1), noise)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"blocks": (6,)},
            ValueError,
            r"`blocks` must lie in 0\.\.5 \(the UNet has 6 decoder blocks\), got \(6,\)",
        ),
        ({"blocks": (-1,)}, ValueError, "`blocks` must lie in"),
        ({"blocks": ()}, ValueError, "`blocks` must be a sequence of at least one int"),
        ({"blocks": 3}, ValueError, "`blocks` must be a sequence of at least one int, got 3"),
        ({"blocks": (1, 1)}, ValueError, r"`blocks` must differ from each other, got \(1, 1\)"),
        ({"blocks": (1.5,)}, TypeError, "`blocks` must be an int, got 1.5"),
        (
            {"blocks": (0,), "timesteps": (1000,)},
            ValueError,
            r"`timesteps` must lie in 0\.\.999 \(the scheduler has 1000",
        ),
        ({"blocks": (0,), "timesteps": (50, 50)}, ValueError, "`timesteps` must differ"),
        ({"blocks": (0,), "resolution": 3}, ValueError, "`resolution` must be at least 4, got 3"),
    ],
)
def test_bad_settings(options, error, message):
    with pytest.raises(error, match=message):
        DiffusionEncoder(make_unet(), **options)


def test_bad_unet():
    with pytest.raises(TypeError, match="`unet` must be a diffusers UNet2DModel, got Linear"):
        DiffusionEncoder(torch.nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"image_ids": "frame"}, TypeError, "`image_ids` must be a sequence of ids, got the string 'frame'"),
        ({"image_ids": [1.5]}, TypeError, "`image_ids` must be an int, got 1.5"),
        ({"draw": -1}, ValueError, "`draw` must be at least 0, got -1"),
        ({"seed": -1}, ValueError, "`seed` must be at least 0, got -1"),
        ({"height": 0}, ValueError, "`height` must be at least 1, got 0"),
        ({"width": 22}, ValueError, "divisible by 4"),
    ],
)
def test_bad_noise_keys(arguments, error, message):
    encoder = DiffusionEncoder(make_unet(), blocks=(0,))
    with pytest.raises(error, match=message):
        encoder.noise(**{"image_ids": [0], "height": 16, "width": 24, **arguments})

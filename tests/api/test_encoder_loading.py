"""Encoders from disk: what is saved is what is loaded, and what cannot be loaded says why."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers", reason="the loop's extra is not installed: pip install 'difal-kernels[loop]'")

from diffusers import DDPMScheduler
from safetensors.torch import load_file, save_file

from api.fakes import tiny_config, tiny_data
from api.small_unets import make_images, make_unet
from difal.encoders import DiffusionEncoder, load_encoder
from difal.errors import ConfigError
from difal.features.pixels import encode, to_input
from difal.run.loop import run


@pytest.mark.parametrize("layers", [1, 2])
def test_save_and_load(tmp_path, layers):
    scheduler = DDPMScheduler(num_train_timesteps=400, beta_schedule="squaredcos_cap_v2")
    encoder = DiffusionEncoder(make_unet(layers), scheduler, (1, 2), (30, 60), resolution=16)
    encoder.save_pretrained(tmp_path / "encoder")
    loaded = load_encoder(tmp_path / "encoder")
    assert (loaded.blocks, loaded.timesteps, loaded.resolution) == ((1, 2), (30, 60), 16)
    assert loaded.scheduler.config.num_train_timesteps == 400
    images = make_images(1, 32, 32)
    noise = encoder.noise([0], 32, 32)
    for a, b in zip(encoder.maps(images, noise), loaded.maps(images, noise), strict=True):
        assert torch.equal(a, b)
    assert load_encoder(str(tmp_path / "encoder"), blocks=(0,), resolution=None).blocks == (0,)
    half = load_encoder(tmp_path / "encoder", dtype=torch.float16)
    assert half.unet.dtype == torch.float16


def test_folders_as_diffusers_writes_them(tmp_path):
    from diffusers import DDPMPipeline

    unet = make_unet()
    unet.save_pretrained(tmp_path / "bare")
    DDPMPipeline(unet, DDPMScheduler(num_train_timesteps=300)).save_pretrained(tmp_path / "pipeline")
    bare = load_encoder(tmp_path / "bare", blocks=(3,), timesteps=(7,))
    pipeline = load_encoder(tmp_path / "pipeline", blocks=(3,), timesteps=(7,))
    assert bare.scheduler.config.num_train_timesteps == 1000
    assert pipeline.scheduler.config.num_train_timesteps == 300
    for a, b in zip(bare.unet.parameters(), pipeline.unet.parameters(), strict=True):
        assert torch.equal(a, b)


def test_loading_errors_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(TypeError, match="`name` must be a str or a Path, got int"):
        load_encoder(3)
    with pytest.raises(FileNotFoundError, match=r"no folder 'tinny'; give 'efficientnet-lite0', .*'tiny'"):
        load_encoder("tinny")
    with pytest.raises(FileNotFoundError, match="no folder"):
        load_encoder(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=r"'nobody/nothing' .* could not be fetched"):
        load_encoder("nobody/nothing")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="got the file"):
        load_encoder(tmp_path / "file")
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(ValueError, match=r"no config\.json .*found: nothing"):
        load_encoder(folder)
    (folder / "config.json").write_text(json.dumps({"_class_name": "UNet1DModel"}))
    with pytest.raises(ValueError, match="describes a UNet1DModel"):
        load_encoder(folder)
    make_unet().save_pretrained(folder, safe_serialization=False)
    with pytest.raises(ValueError, match="pickled weights are not read"):
        load_encoder(folder)
    (folder / "diffusion_pytorch_model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ValueError, match="could not be loaded"):
        load_encoder(folder)
    make_unet().save_pretrained(folder)
    with pytest.raises(ValueError, match=r"`blocks` must lie in 0\.\.5 \(the UNet has 6 decoder blocks\)"):
        load_encoder(folder)  # the paper's blocks, in a small network


def test_weights_that_are_not_all_there(tmp_path):
    """diffusers noise_samples the missing ones at random and goes on; every run would then see other features."""
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    make_unet().save_pretrained(tmp_path)
    weights = load_file(path)
    del weights["conv_in.weight"], weights["conv_in.bias"]
    save_file(weights, path)
    with pytest.raises(ValueError, match=r"lack conv_in\.bias, conv_in\.weight; fetch"):
        load_encoder(tmp_path, blocks=(0,))


@pytest.mark.parametrize("name", ["config.json", "difal_encoder.json"])
def test_json_that_is_none(tmp_path, name):
    DiffusionEncoder(make_unet(), blocks=(0,), timesteps=(30,)).save_pretrained(tmp_path)
    (folder,) = {path.parent for path in tmp_path.rglob(name)}
    for text, message in (("{", "is not JSON"), ("[]", "must hold a JSON object")):
        (folder / name).write_text(text)
        with pytest.raises(ValueError, match=rf"{name} {message}"):
            load_encoder(tmp_path)


def test_the_embedded_encoder():
    encoder = load_encoder("tiny")
    images = make_images(1, 96, 128)
    maps = encoder.maps(images, encoder.noise(["a"], 96, 128))
    assert [m.shape[1] for m in maps] == list(encoder.channels)
    assert all(bool(m.isfinite().all()) for m in maps)
    wide = make_images(1, 300, 200)
    assert encoder.working_size(300, 200) == (96, 64)
    assert encoder.maps(wide, encoder.noise(["a"], 300, 200))[0].isfinite().all()


def spoil(folder, name, change):
    """Change a file of a folder: its text, or a tensor in it that is taken out, or everything but its first bytes."""
    path = folder / name
    if isinstance(change, int):
        path.write_bytes(path.read_bytes()[:change])
    elif path.suffix == ".json":
        path.write_text(change)
    else:
        tensors = load_file(path)
        assert tensors.pop(change) is not None
        save_file(tensors, path, {"format": "pt"})


WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (WEIGHTS, "conv_in.bias", r"the weights in .* lack conv_in\.bias; fetch or convert"),
        (WEIGHTS, 200, "could not be loaded"),
        ("config.json", "{", r"config\.json is not JSON"),
        ("config.json", "[]", "must hold a JSON object, got list"),
        ("difal_encoder.json", "{", r"difal_encoder\.json is not JSON"),
        ("difal_encoder.json", '{"blocs": [1]}', "unknown setting 'blocs'"),
        ("scheduler_config.json", "{", r"scheduler_config\.json is not JSON"),
    ],
)
def test_damaged_folders(tmp_path, name, change, message):
    DiffusionEncoder(make_unet(), blocks=(0,)).save_pretrained(tmp_path)
    spoil(tmp_path, name, change)
    with pytest.raises(ValueError, match=message):
        load_encoder(tmp_path)


UNFIT = {
    "sdxl": r"conditioned on more than a prompt as Stable Diffusion XL is \(addition_embed_type 'text_time'\)",
    "classes": r"class-conditional \(10 classes\), and images to be labeled have no class yet",
    "class embeddings": r"class-conditional \(timestep\)",
    "four channels": r"a UNet of 4 channels; images have three, or one",
}
SMALL = {
    "sample_size": 16,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
}
PLAIN = {**SMALL, "down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}


def save_unfit(kind, folder):
    from diffusers import AutoencoderKL, UNet2DConditionModel, UNet2DModel

    if kind == "sdxl":
        UNet2DConditionModel(
            **SMALL,
            cross_attention_dim=8,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=32,
        ).save_pretrained(folder / "unet")
        AutoencoderKL(block_out_channels=(8,), norm_num_groups=4).save_pretrained(folder / "vae")
        save_file({"prompt": torch.zeros(4, 8)}, folder / "empty_prompt.safetensors")
    else:
        more = {
            "classes": {"num_class_embeds": 10},
            "class embeddings": {"class_embed_type": "timestep"},
            "four channels": {"in_channels": 4, "out_channels": 4},
        }[kind]
        UNet2DModel(**PLAIN, **more).save_pretrained(folder)
    (folder / "difal_encoder.json").write_text(json.dumps({"blocks": [1, 3], "timesteps": [50], "resolution": 64}))


@pytest.mark.parametrize("kind", UNFIT)
def test_kinds_that_cannot_serve_are_refused_before_a_folder_is_made(tmp_path, kind):
    save_unfit(kind, tmp_path / "encoder")
    with pytest.raises(ValueError, match=UNFIT[kind]):
        load_encoder(tmp_path / "encoder")
    config = tiny_config(tmp_path / "run", encoder=str(tmp_path / "encoder"))
    with pytest.raises(ConfigError, match=r"`--encoder`: .*" + UNFIT[kind]):
        run(config, data=tiny_data(), log=len)
    assert not (tmp_path / "run").exists()


def test_a_unet_of_grey_images_sees_the_luminance(tmp_path):
    """Grey images go in as they are, colours as Pillow makes them grey."""
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(**PLAIN, in_channels=1, out_channels=1)
    DiffusionEncoder(unet, None, (1, 3), (50,), resolution=32).save_pretrained(tmp_path / "grey")
    config = tiny_config(tmp_path / "run", encoder=str(tmp_path / "grey"), rounds=1)
    assert run(config, data=tiny_data(), log=len) == "done"
    encoder = load_encoder(tmp_path / "grey")
    grey = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    noise = encoder.noise(["a"], 32, 32, seed=0, draw=0)
    wanted = encoder.maps(torch.from_numpy(grey).float()[None, None] / 127.5 - 1, noise)
    for found, expected in zip(encode(encoder, np.dstack([grey] * 3), "a", [0], config), wanted, strict=True):
        assert torch.equal(found, expected)
    color = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert np.abs(to_input(color, 1)[0, 0].numpy() * 127.5 + 127.5 - color @ np.array([0.299, 0.587, 0.114])).max() < 1

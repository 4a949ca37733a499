"""Stable Diffusion's kind and DINOv2's kind behind the encoder protocol, small, random, through files."""

import json

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from api.fakes import tiny_config, tiny_data
from api.small_unets import make_images
from difal.encoders import Encoder, LatentDiffusionEncoder, VisionEncoder, load_encoder
from difal.encoders.latent import PROMPT
from difal.encoders.lazy import LazyEncoder
from difal.encoders.loading import fingerprint
from difal.features.build import build_cache

transformers = pytest.importorskip("transformers", reason="pip install 'difal-kernels[transformers]'")


def latent_parts():
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=12,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    return unet, vae, torch.randn(5, 12)


@pytest.fixture(scope="module")
def latent():
    return LatentDiffusionEncoder(*latent_parts(), blocks=(0, 1, 3), timesteps=(20, 300))


@pytest.fixture(scope="module")
def vision():
    torch.manual_seed(1)
    config = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, patch_size=4, image_size=16
    )
    return VisionEncoder(transformers.Dinov2Model(config), (1, 3), (0.0, 0.4), resolution=24)


def same_maps(one, two, size=(24, 32)):
    images = make_images(2, *size)
    noise = one.noise(["a", "b"], *size, draw=3)
    return all(torch.equal(a, b) for a, b in zip(one.maps(images, noise), two.maps(images, noise), strict=True))


def test_latent_maps_are_the_unets_activations(latent):
    """Against hooks of our own around the plain pipeline's steps."""
    images = make_images(2, 16, 24)
    noise = latent.noise(["a", "b"], 16, 24, seed=1)
    assert noise.shape == (2, 2, 4, 8, 12)
    maps = latent.maps(images, noise)
    assert [m.shape[1] for m in maps] == list(latent.channels)
    seen = {}
    modules = {0: latent.unet.up_blocks[0].resnets[0], 1: latent.unet.up_blocks[0], 3: latent.unet.up_blocks[1]}
    hooks = [m.register_forward_hook(lambda _m, _a, out, k=k: seen.update({k: out})) for k, m in modules.items()]
    try:
        latents = latent.vae.encode(images).latent_dist.mean * latent.vae.config.scaling_factor
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
        for i, t in enumerate((20, 300)):
            kept = (1 - betas).cumprod(0)[t]
            noisy = kept.sqrt() * latents + (1 - kept).sqrt() * noise[:, i]
            latent.unet(noisy, torch.tensor(t), encoder_hidden_states=latent.prompt.expand(2, -1, -1))
            for place, k in enumerate((0, 1, 3)):
                assert torch.allclose(maps[3 * i + place], seen[k], rtol=1e-4, atol=1e-5)
    finally:
        for hook in hooks:
            hook.remove()


def test_latent_through_files(latent, tmp_path):
    latent.save_pretrained(tmp_path / "e")
    loaded = load_encoder(tmp_path / "e")
    assert isinstance(loaded, LatentDiffusionEncoder)
    assert same_maps(latent, loaded, (16, 24))
    assert loaded.fingerprint() == latent.fingerprint()
    before = fingerprint(tmp_path / "e")
    other = LatentDiffusionEncoder(*latent_parts()[:2], torch.zeros(5, 12), blocks=(0, 1, 3), timesteps=(20, 300))
    other.save_pretrained(tmp_path / "e")
    assert fingerprint(tmp_path / "e") != before
    assert other.fingerprint() != latent.fingerprint()


def test_the_empty_prompt_by_a_text_encoder(latent, tmp_path):
    """The folder of a pipeline: tokenizer and text encoder instead of the embedding's file."""
    letters = [*"abc", *(f"{c}</w>" for c in "abc"), "<|startoftext|>", "<|endoftext|>", "ab"]
    (tmp_path / "v").mkdir()
    (tmp_path / "v/vocab.json").write_text(json.dumps({word: i for i, word in enumerate(letters)}))
    (tmp_path / "v/merges.txt").write_text("#version: 0.2\na b\n")
    tokenizer = transformers.CLIPTokenizer(str(tmp_path / "v/vocab.json"), str(tmp_path / "v/merges.txt"))
    config = transformers.CLIPTextConfig(
        vocab_size=9, hidden_size=12, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=7, bos_token_id=6, eos_token_id=7, pad_token_id=7,
    )  # fmt: skip
    torch.manual_seed(2)
    text = transformers.CLIPTextModel(config).eval()
    folder = tmp_path / "pipeline"
    latent.unet.save_pretrained(folder / "unet")
    latent.vae.save_pretrained(folder / "vae")
    with pytest.raises(ValueError, match=r"needs text_encoder/ and tokenizer/, or empty_prompt.safetensors"):
        load_encoder(folder, blocks=(0,))
    text.save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    DDPMScheduler(num_train_timesteps=400).save_pretrained(folder / "scheduler")
    loaded = load_encoder(folder, blocks=(0,))
    assert loaded.scheduler.config.num_train_timesteps == 400
    with torch.no_grad():
        expected = text(torch.tensor([[6, 7, 7, 7, 7, 7, 7]])).last_hidden_state
    assert torch.allclose(loaded.prompt, expected, atol=1e-6)


def test_vision_maps_are_the_patch_tokens(vision):
    images = make_images(2, 24, 32)
    noise = vision.noise(["a", "b"], 24, 32, draw=1)
    maps = vision.maps(images, noise)
    assert [tuple(m.shape) for m in maps] == [(2, 16, 6, 8)] * 4
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    for level, sigma in enumerate((0.0, 0.4)):
        pixels = ((images + sigma * noise[:, level] + 1) / 2 - mean[:, None, None]) / std[:, None, None]
        with torch.no_grad():
            last = vision.model(pixels).last_hidden_state[:, 1:]
        assert torch.allclose(maps[2 * level + 1], last.transpose(1, 2).reshape(2, 16, 6, 8), atol=1e-5)
    assert torch.equal(maps[0], vision.maps(images, vision.noise(["a", "b"], 24, 32, draw=2))[0])  # noise level 0
    assert not torch.equal(maps[2], vision.maps(images, vision.noise(["a", "b"], 24, 32, draw=2))[2])


def test_vision_through_files(vision, tmp_path):
    vision.save_pretrained(tmp_path / "e")
    loaded = load_encoder(tmp_path / "e")
    assert isinstance(loaded, VisionEncoder)
    assert same_maps(vision, loaded)
    assert loaded.fingerprint() == vision.fingerprint()
    (tmp_path / "e/preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5]}')
    before = fingerprint(tmp_path / "e")
    (tmp_path / "e/difal_encoder.json").unlink()
    bare = load_encoder(tmp_path / "e", noise_levels=(0.2,))
    assert (bare.mean, bare.layers) == ((0.5, 0.5, 0.5), (1, 2, 3))
    assert fingerprint(tmp_path / "e") != before


@pytest.mark.parametrize("kind", ["latent", "vision"])
def test_a_bank_of_either(kind, request, tmp_path):
    encoder = request.getfixturevalue(kind)
    assert isinstance(encoder, Encoder)
    config = tiny_config(tmp_path, encoder=kind)
    cache = build_cache(tmp_path / "cache", tiny_data(train=2).train, LazyEncoder(config, encoder), config)
    assert cache.dimension == sum(encoder.channels)
    assert (cache.noise("local")[:, 0] != cache.noise("local")[:, 1]).any()


def test_errors(latent, vision, tmp_path):
    unet, vae, prompt = latent_parts()
    with pytest.raises(ValueError, match=r"`prompt` must have shape \(tokens, 12\)"):
        LatentDiffusionEncoder(unet, vae, prompt[:, :5], blocks=(0,))
    with pytest.raises(TypeError, match="`vae` must be a diffusers AutoencoderKL"):
        LatentDiffusionEncoder(unet, unet, prompt, blocks=(0,))
    with pytest.raises(ValueError, match=r"`layers` must lie in 0\.\.3"):
        VisionEncoder(vision.model, (4,))
    with pytest.raises(ValueError, match="`noise_levels`"):
        VisionEncoder(vision.model, noise_levels=(-1,))
    with pytest.raises(TypeError, match="vision transformer"):
        VisionEncoder(unet)
    unet.save_pretrained(tmp_path / "unet")
    with pytest.raises(ValueError, match="without vae/"):
        load_encoder(tmp_path)
    vision.model.save_pretrained(tmp_path / "v")
    weights = load_file(tmp_path / "v/model.safetensors")
    without_pooler = {name: tensor for name, tensor in weights.items() if "pooler" not in name}
    save_file(without_pooler, tmp_path / "v/model.safetensors")
    load_encoder(tmp_path / "v")  # what is made of its output is not read
    lost = next(name for name in weights if "layer" in name)
    save_file({name: tensor for name, tensor in weights.items() if name != lost}, tmp_path / "v/model.safetensors")
    with pytest.raises(ValueError, match=r"lack encoder\.layer\.0\S*; fetch"):
        load_encoder(tmp_path / "v")
    (tmp_path / "v/model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"no model.safetensors \(pickled weights are not read\)"):
        load_encoder(tmp_path / "v")


def test_damaged_folders(latent, vision, tmp_path):
    """Missing weights above all: the libraries would draw them at random, and warn."""
    vision.save_pretrained(tmp_path / "v")
    path = tmp_path / "v/model.safetensors"
    tensors = load_file(path)
    save_file({name: one for name, one in tensors.items() if "cls_token" not in name}, path, {"format": "pt"})
    with pytest.raises(ValueError, match=r"the weights in .* lack embeddings\.cls_token"):
        load_encoder(tmp_path / "v")
    path.write_bytes(b"cut")
    with pytest.raises(ValueError, match="could not be loaded"):
        load_encoder(tmp_path / "v")
    latent.save_pretrained(tmp_path / "l")
    for content in ({"other": torch.zeros(5, 12)}, None):
        save_file(content, tmp_path / "l" / PROMPT) if content else (tmp_path / "l" / PROMPT).write_bytes(b"cut")
        with pytest.raises(ValueError, match="must hold the tensor `prompt`"):
            load_encoder(tmp_path / "l")


def test_a_classifiers_checkpoint_has_no_pooler_and_needs_none(tmp_path):
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, patch_size=4, image_size=16
    )
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    assert len(load_encoder(tmp_path).layers) == 2

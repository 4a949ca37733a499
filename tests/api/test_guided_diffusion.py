"""guided-diffusion checkpoints: parity with activations of the original network, and strictness."""

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers", reason="the loop's extra is not installed: pip install 'difal-kernels[loop]'")

from safetensors.torch import load_file, save_file

from difal.encoders import DiffusionEncoder, load_encoder, load_guided_diffusion
from fixtures import adm_weights

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture(scope="module")
def meta():
    return json.loads((FIXTURES / "adm_tiny.json").read_text())


@pytest.fixture(scope="module")
def weights(meta):
    return {name: torch.from_numpy(value) for name, value in adm_weights.state_dict(meta).items()}


def test_parity_with_the_original_network(meta, weights):
    expected = load_file(FIXTURES / "adm_tiny.safetensors")
    unet = load_guided_diffusion(weights, num_head_channels=meta["config"]["num_head_channels"])
    encoder = DiffusionEncoder(unet, blocks=meta["blocks"], timesteps=meta["timesteps"])
    maps = iter(encoder.maps(expected["image"], expected["noise"]))
    for t in meta["timesteps"]:
        for block in meta["blocks"]:
            truth, found = expected[f"activation_t{t}_block{block}"], next(maps)
            assert found.shape == truth.shape
            error = float((found - truth).norm() / truth.norm())
            assert error < 1e-4, f"timestep {t}, block {block}: relative error {error:.2e}"
    assert unet.config.out_channels == 6


def test_files_and_a_converted_folder_give_the_same_network(weights, tmp_path):
    unet = load_guided_diffusion(weights, num_head_channels=16)
    torch.save({name: value.half() for name, value in weights.items()}, tmp_path / "half.pt")
    torch.save(weights, tmp_path / "adm.pt")
    save_file(weights, tmp_path / "adm.safetensors")
    DiffusionEncoder(unet, blocks=(5,), timesteps=(50,)).save_pretrained(tmp_path / "folder")
    loaded = [load_guided_diffusion(tmp_path / name, num_head_channels=16) for name in ("adm.pt", "adm.safetensors")]
    loaded.append(load_encoder(tmp_path / "folder").unet)
    for other in loaded:
        for (name, a), (_, b) in zip(unet.state_dict().items(), other.state_dict().items(), strict=True):
            assert torch.equal(a, b), name
    assert load_guided_diffusion(tmp_path / "half.pt", num_head_channels=16).dtype == torch.float32


def paper_shapes(meta):
    """The shapes of the 256 x 256 unconditional model: those of the fixture, at eight times the width."""
    config = meta["config"]
    narrow, wide = config["model_channels"], 256
    shapes = {}
    for name, shape in meta["shapes"].items():
        keep = 1 if name in ("out.2.weight", "out.2.bias") else 0  # the output's 6 channels stay
        grown = [size * wide // narrow if i >= keep and i < 2 and size != 3 else size for i, size in enumerate(shape)]
        shapes[name] = grown
    return shapes


def test_the_papers_network_has_its_parameter_count(meta):
    assert meta["config"]["channel_mult"] == [1, 1, 2, 2, 4, 4]
    source = {name: torch.empty(shape, device="meta") for name, shape in paper_shapes(meta).items()}
    unet = load_guided_diffusion(source)
    assert sum(p.numel() for p in unet.parameters()) == 552_814_086
    assert unet.config.block_out_channels == (256, 256, 512, 512, 1024, 1024)
    assert sum(DiffusionEncoder(unet).channels) == 6144
    assert unet.config.layers_per_block == 2


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("middle_block.1.norm.bias", None, r"missing: mid_block\.attentions\.0\.group_norm\.bias"),
        ("label_emb.weight", torch.zeros(10, 128), r"is conditional on classes; not used: label_emb\.weight"),
        ("output_blocks.x.weight", torch.zeros(1), r"not used: output_blocks\.x\.weight"),
        ("middle_block.1.qkv.bias", torch.zeros(()), r"not used: mid_block\.attentions\.0\.qkv\.bias"),
        ("out.2.weight", torch.zeros(()), r"out\.2\.weight as weights of a convolution, got shape \(\)"),
        (
            "output_blocks.9.0.in_layers.2.weight",
            torch.zeros(64, 64, 3, 3),
            r"wrong shape: up_blocks\.3\.resnets\.0",
        ),
        (
            "input_blocks.5.0.emb_layers.1.weight",
            torch.zeros(32, 128),
            r"wrong shape: down_blocks\.1\.resnets\.1",
        ),
        ("input_blocks.0.0.weight", None, r"must hold input_blocks\.0\.0\.weight"),
        ("output_blocks.2.2.in_layers.0.weight", None, "18 output_blocks with 4 residual upsamplers"),
    ],
)
def test_nothing_is_missing_left_over_or_misshapen(weights, name, change, message):
    broken = {k: v for k, v in weights.items() if k != name}
    if change is not None:
        broken[name] = change
    with pytest.raises(ValueError, match=message):
        load_guided_diffusion(broken, num_head_channels=16)


def test_bad_arguments(weights, tmp_path):
    with pytest.raises(ValueError, match="`num_head_channels` must divide 64, got 24"):
        load_guided_diffusion(weights, num_head_channels=24)
    with pytest.raises(TypeError, match="must be a path or a mapping of tensors, got list"):
        load_guided_diffusion([1])
    with pytest.raises(TypeError, match="must map names to tensors, got 'a': int"):
        load_guided_diffusion({"a": 1})
    with pytest.raises(ValueError, match="got 0 output_blocks"):
        load_guided_diffusion({"a": torch.zeros(1)})
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_guided_diffusion(tmp_path / "absent.pt")
    torch.save(torch.nn.Linear(1, 1), tmp_path / "pickled.pt")
    torch.save(weights, tmp_path / "cut.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "cut.pt").read_bytes()[:10_000])
    (tmp_path / "page.pt").write_text("<html>")
    (tmp_path / "empty.pt").touch()
    for name, reason in (
        ("pickled", "or holds pickled objects"),
        ("cut", "fetch it again"),
        ("page", "is no"),
        ("empty", "empty"),
    ):
        with pytest.raises(ValueError, match=f"{name}.pt holds no plain tensors .*: .*{reason}") as caught:
            load_guided_diffusion(tmp_path / f"{name}.pt")
        assert "weights_only" not in str(caught.value)


def test_the_command_converts_a_checkpoint(meta, weights, tmp_path, capsys):
    from difal import cli

    save_file(weights, tmp_path / "adm.safetensors")
    command = f"encode --encoder {tmp_path}/adm.safetensors --convert {tmp_path}/new --head-channels 16".split()
    assert cli.main(command) == 0
    assert "parameters; use it as --encoder" in capsys.readouterr().out
    encoder = load_encoder(tmp_path / "new")
    assert (encoder.blocks, encoder.timesteps) == ((5, 8, 12, 17), (50, 150, 250))
    unet = load_guided_diffusion(weights, num_head_channels=16)
    assert all(torch.equal(a, b) for a, b in zip(unet.parameters(), encoder.unet.parameters(), strict=True))
    assert cli.main(command) == cli.FAILED
    assert "must name a folder that is new or empty" in capsys.readouterr().err

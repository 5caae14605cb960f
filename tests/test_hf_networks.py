"""Folders that transformers wrote: the same vectors as transformers gives, and a sentence for all others."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import nearfar
from nearfar.core import progress
from nearfar.core.errors import NearfarError
from nearfar.models import hf_networks, known
from nearfar.models.libraries import InputConfig

VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 2, 1, 1]}
SQUARE = {"height": 32, "width": 32}
AT_48 = {"do_center_crop": True, "crop_size": {"height": 48, "width": 48}, "size": {"shortest_edge": 56}}

MADE: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "vit": ("ViT", VIT, {"size": SQUARE}),
    "vit, no bias": ("ViT", VIT | {"qkv_bias": False}, {"size": SQUARE}),
    "vit, with a classifier": ("ViTForImageClassification", VIT, {"size": SQUARE}),
    "deit": ("DeiT", VIT, {"size": SQUARE}),
    "ijepa": ("IJepa", VIT, {"size": SQUARE}),
    "dinov2": ("Dinov2", VIT | {"mlp_ratio": 2}, AT_48),
    "dinov2, gated": ("Dinov2", VIT | {"use_swiglu_ffn": True}, {"size": SQUARE}),
    "dinov2_with_registers": ("Dinov2WithRegisters", VIT | {"mlp_ratio": 2, "num_register_tokens": 3}, AT_48),
    "dinov3_vit": ("DINOv3ViT", VIT | {"num_register_tokens": 2}, AT_48),
    "convnext": ("ConvNext", STAGES, {"size": {"shortest_edge": 64}, "crop_pct": 0.875}),
    "convnextv2": ("ConvNextV2", STAGES, {"size": {"shortest_edge": 64}, "crop_pct": 0.875}),
    "dinov3_convnext": ("DINOv3ConvNext", STAGES, {"size": {"height": 64, "width": 64}}),
    "resnet": (
        "ResNet",
        {"hidden_sizes": [32, 64, 64, 96], "depths": [1, 2, 1, 1]},
        {"size": {"shortest_edge": 64}},
    ),
    "resnet, of basic blocks": (
        "ResNetForImageClassification",
        {"hidden_sizes": [64, 16, 24, 32], "depths": [1, 1, 2, 1], "layer_type": "basic"},
        {"size": {"shortest_edge": 64}},
    ),
}


def write(folder: Path, name: str) -> Any:
    """Write a small random network as transformers does; gives the network."""
    kind, config, how = MADE[name]
    family = kind.removesuffix("ForImageClassification")
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        network = getattr(transformers, f"{family}Model" if family == kind else kind)
        net = network(getattr(transformers, f"{family}Config")(**config)).eval()
        for weight in net.parameters():  # all of them count, and images differ
            weight.data += 0.3 * torch.randn_like(weight)
        for buffer_name, buffer in net.named_buffers():
            if buffer_name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0)
        net.save_pretrained(folder)
    told = {"resample": 3, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3], **how}
    (folder / "preprocessor_config.json").write_text(json.dumps(told))
    return net if family == kind else getattr(net, net.base_model_prefix)


def pooled(net: Any, x: torch.Tensor, name: str) -> torch.Tensor:
    """Take the vectors as the authors do: see `hf_networks.KINDS`."""
    with torch.inference_mode():
        out = net(x)
    if name == "deit":
        vectors = out.last_hidden_state[:, :2].mean(1)
    elif name == "ijepa":
        vectors = out.last_hidden_state.mean(1)
    elif "net" in name or "next" in name:
        vectors = out.pooler_output.flatten(1)
    else:
        vectors = out.last_hidden_state[:, 0]
    found: torch.Tensor = vectors
    return found


@pytest.mark.parametrize("name", MADE)
def test_vectors_are_those_that_transformers_gives(name: str, tmp_path: Path) -> None:
    theirs, found = write(tmp_path, name), known.open_folder(tmp_path)
    own, side = found.encoder, found.preprocess.size
    assert side == (48 if MADE[name][2] is AT_48 else 32 if MADE[name][2].get("size") is SQUARE else 64)
    x = torch.from_numpy(np.random.default_rng(0).random((4, 3, side, side), np.float32))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in ([0.4, 0.5, 0.6], [0.2, 0.25, 0.3]))
    right = pooled(theirs, (x - mean) / std, name)
    with torch.inference_mode():
        vectors = own(x)
    assert vectors.shape == (4, own.dim)
    differences = right - right.mean(0)
    assert float((vectors - right).norm() / differences.norm()) < 1e-4 and float(differences.norm()) > 1e-3


def test_such_a_folder_is_adopted_and_encodes_like_a_run(tmp_path: Path) -> None:
    write(tmp_path / "made", "dinov2_with_registers")
    run = nearfar.adopt(str(tmp_path / "made"), out=tmp_path / "run")
    images = np.random.default_rng(0).integers(0, 256, (3, 60, 70, 3), np.uint8)
    assert np.array_equal(run.encode(images), nearfar.load(str(tmp_path / "made")).encode(images))
    assert [tuple(level.shape) for level in run.encoder.maps(torch.zeros(1, 3, 48, 48))] == [(1, 32, 6, 6)]
    tokens = run.encoder.tokens(torch.zeros(1, 3, 48, 48))
    assert tokens.patches.shape == (1, 36, 32) and tokens.prefix.shape == (1, 4, 32)


def test_what_a_folder_does_not_say_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "made", "vit")
    file = tmp_path / "made" / "preprocessor_config.json"
    capsys.readouterr()
    progress.show(True)
    try:
        assert nearfar.load(tmp_path / "made").encoder.mean == (0.4, 0.5, 0.6)
        assert nearfar.load(tmp_path / "made").preprocess.fit == "squash"
        assert capsys.readouterr().err == ""
        file.unlink()
        assert nearfar.load(tmp_path / "made").encoder.mean == (0.5, 0.5, 0.5)
        said = capsys.readouterr().err
        assert "those of most vit networks are taken: mean 0.5 0.5 0.5" in said and str(file) in said
        file.write_text(json.dumps({"do_normalize": False, "image_std": [0.0, 0.0, 0.0]}))
        assert nearfar.load(tmp_path / "made").encoder.mean == (0.0, 0.0, 0.0)
        other = nearfar.load(f"{tmp_path / 'made'}@64")
        assert other.preprocess.size == 64 and other.encode(np.zeros((1, 70, 80, 3), np.uint8)).shape == (
            1,
            32,
        )
        assert capsys.readouterr().err == ""
    finally:
        progress.show(False)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"model_type": "swin"}, "does not build"),
        ({"model_type": "vit", "hidden_size": -4}, "hidden_size"),
        ({"model_type": "vit", "hidden_size": "768"}, "hidden_size"),
        ({"model_type": "vit", "hidden_size": 10, "num_attention_heads": 3}, "no multiple"),
        ({"model_type": "vit", "hidden_act": "relu"}, "layers that nearfar does not build"),
        ({"model_type": "dinov3_vit", "use_gated_mlp": True}, "layers that nearfar does not build"),
        ({"model_type": "convnext", "hidden_sizes": [1 << 40]}, "hidden_sizes"),
        ({"model_type": "resnet", "embedding_size": 32}, "not those of timm's ResNets"),
    ],
)
def test_another_network_is_named(said: dict[str, Any], message: str) -> None:
    with pytest.raises(NearfarError, match=message) as raised:
        hf_networks.network(said, "there/config.json")
    assert "there/config.json" in str(raised.value)


@pytest.mark.parametrize(
    ("said", "how", "right"),
    [
        ({"model_type": "vit", "image_size": 384}, {}, (384, 1.0, "bilinear", 0.5)),
        (
            {"model_type": "dinov2", "image_size": 518},
            {"size": {"shortest_edge": 256}, "crop_size": 224, "do_center_crop": True},
            (224, 0.875, "bicubic", 0.485),
        ),
        (
            {"model_type": "resnet"},
            {"size": 224, "crop_pct": 0.9, "resample": 2},
            (224, 0.9, "bilinear", 0.485),
        ),
        (
            {"model_type": "resnet"},
            {"do_normalize": False, "size": [], "image_mean": "x"},
            (224, 1.0, "bicubic", 0.0),
        ),
    ],
)
def test_how_images_are_prepared_is_read(
    said: dict[str, Any], how: dict[str, Any], right: tuple[int, float, str, float]
) -> None:
    found: InputConfig = hf_networks.input_config(said, how)
    assert (found.size, found.crop, found.interpolation, found.mean[0]) == right


@pytest.mark.parametrize(("size", "short"), [(448, 491), (224, 400), (224, 256), (384, 384)])
def test_the_short_side_is_the_makers_whatever_the_quotient_rounds_to(size: int, short: int) -> None:
    how = {"size": {"shortest_edge": short}, "crop_size": size, "do_center_crop": True}
    plan = known.preprocess(hf_networks.input_config({"model_type": "resnet"}, how), size)
    assert (plan.short_side, plan.crop) == (short, size / short)

"""What a run keeps: an encoder with its normalisation, and the parts that its method saves beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import nearfar
from nearfar import models
from nearfar.core.errors import NearfarError
from nearfar.images.views import Preprocess
from nearfar.training.run import export, load

TINY = {
    "steps": 4,
    "batch_size": 16,
    "encoder": "resnet10_w16",
    "precision": "float32",
    "workers": 1,
    "health_checks": 0,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def simclr(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "simclr"
    nearfar.pretrain(photos, out=folder, head=(16, 8), **TINY)
    return folder


def test_a_folder_that_holds_something_else_is_not_named_as_a_place_for_a_run(tmp_path: Path) -> None:
    with pytest.raises(NearfarError, match=f"pretrain DATA --out '{tmp_path}/no run'; or"):
        load(tmp_path / "no run")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(NearfarError, match="pretrain DATA --out runs/a; or"):
        load(tmp_path)


def test_a_run_of_pretrained_weights_keeps_their_normalization(tmp_path: Path) -> None:
    made = models.encoder("timm:vit_tiny_patch16_224", size=32)
    safetensors.torch.save_file(made.net.state_dict(), tmp_path / "theirs.safetensors")
    f = models.encoder(made.name, size=32, weights=str(tmp_path / "theirs.safetensors")).eval()
    export(tmp_path, f, Preprocess.of(32), {})
    run = load(tmp_path)
    assert run.encoder.mean == run.encoder.std == (0.5, 0.5, 0.5)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    x = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        assert torch.equal(run.encoder(x), f(x))
        np.testing.assert_allclose(run.encode(images), f.net((x - 0.5) / 0.5).numpy(), atol=1e-4)
    card = json.loads((tmp_path / "encoder.json").read_text())
    assert card["encoder"]["mean"] == [0.5, 0.5, 0.5] and card["preprocess"]["size"] == 32


def prepared_by_the_card(card: dict[str, Any], picture: Image.Image) -> np.ndarray:
    """Prepare a picture as encoder.json says, with Pillow and NumPy alone: (3, side, side) from 0 to 1."""
    plan, side = card["preprocess"], card["decode_side"]
    if min(picture.size) > side:
        share = side / min(picture.size)
        picture = picture.resize([round(one * share) for one in picture.size], Image.Resampling.BICUBIC)
    (width, height), size = picture.size, plan["size"]
    cut = round(min(width, height) * plan["crop"])
    left, top = (width - cut) // 2, (height - cut) // 2
    how = Image.Resampling[plan["interpolation"].upper()]
    bands = [
        np.asarray(band.convert("F").resize((size, size), how, (left, top, left + cut, top + cut)))
        for band in picture.split()
    ]
    return np.clip(np.stack(bands), 0, 255) / np.float32(255)


@pytest.mark.parametrize(
    "plan", [Preprocess.of(32), Preprocess.of(96, "bilinear"), Preprocess(64, 0.8, "bicubic", 80)]
)
def test_who_follows_the_card_gets_our_vectors(plan: Preprocess, tmp_path: Path) -> None:
    export(tmp_path, models.encoder("resnet10_w16", size=plan.size).eval(), plan, {})
    card, run = json.loads((tmp_path / "encoder.json").read_text()), load(tmp_path)
    assert run.preprocess == plan and card["preprocess"]["short_side"] == plan.short_side
    assert card["decode_side"] == plan.decode_side and len(card["steps"]) == 4
    assert f"short side is over {plan.decode_side} px" in card["steps"][0]
    assert f"to {plan.size} x {plan.size} px, antialiased {plan.interpolation}" in card["steps"][2]
    noise = np.random.default_rng(0).integers(0, 256, (4, 60, 50, 3), np.uint8)
    drawn = [Image.fromarray(x).resize((300, 200), Image.Resampling.BICUBIC) for x in noise]

    def cosine(seen: dict[str, Any]) -> float:
        x = torch.from_numpy(np.stack([prepared_by_the_card(seen, picture) for picture in drawn]))
        with torch.no_grad():
            found = run.encoder(x).numpy()
        own = run.encode([np.asarray(picture) for picture in drawn])
        lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(own, axis=1)
        return float(((found * own).sum(1) / lengths).min())

    assert cosine(card) > 0.9999
    assert cosine(card | {"decode_side": 1 << 20}) < cosine(card)


def test_ours_see_the_picture_as_it_is(simclr: Path) -> None:
    run = load(simclr)
    assert (run.encoder.mean, run.encoder.std) == (models.ZERO, models.ONE)
    assert "normalization" not in safetensors.torch.load_file(simclr / "encoder.safetensors")


def test_any_numbers_of_a_picture_give_its_vector(simclr: Path) -> None:
    run = load(simclr)
    picture = np.random.default_rng(3).integers(0, 256, (40, 40, 3), np.uint8)
    picture = (picture // 128) * 255  # what bfloat16 holds exactly
    wanted, tensor = run.encode(picture), torch.from_numpy(picture).permute(2, 0, 1)
    for numbers in (torch.uint8, torch.int64, torch.float64, torch.float16, torch.bfloat16):
        whole = tensor if numbers in (torch.uint8, torch.int64) else tensor / 255
        np.testing.assert_array_equal(run.encode(whole.to(numbers)), wanted)
        np.testing.assert_array_equal(run.encode(whole.to(numbers)[None])[0], wanted)
    pictures = (Image.fromarray(picture), Image.fromarray(picture[::-1]))
    assert np.array_equal(run.encode(pictures), run.encode([*pictures]))  # no picture and its label
    np.testing.assert_array_equal(run.encode(picture, device=torch.device("cpu")), wanted)
    for half in (torch.float16, torch.bfloat16):
        run.encoder.to(half)
        near = run.encode(picture)
        assert near.dtype == np.float32
        assert near @ wanted / np.linalg.norm(near) / np.linalg.norm(wanted) > 0.999
    with pytest.raises(NearfarError, match="batch_size is 0; give 1 or more"):
        run.encode(picture, batch_size=0)
    with pytest.raises(NearfarError, match="has no pixels: 0 x 7"):
        run.encode(Image.new("RGB", (0, 7)))
    with pytest.raises(NearfarError, match="from a generator; give a folder, a list of images or an array"):
        run.encode(one for one in pictures)


def test_simclr_keeps_its_head(simclr: Path, photos: Path, tmp_path: Path) -> None:
    run = load(simclr)
    assert run.parts == ("g",) and json.loads((simclr / "encoder.json").read_text())["parts"] == ["g"]
    last = safetensors.torch.load_file(simclr / "last.safetensors")
    g = models.mlp(run.encoder.dim, 16, 8)
    g.load_state_dict(run.part("g"))
    assert all(torch.equal(value, last[f"method.g.{key}"]) for key, value in g.state_dict().items())
    with pytest.raises(NearfarError, match=r"no part 'q'; it holds g\."):
        run.part("q")
    other = nearfar.pretrain(photos, out=tmp_path / "triplet", method="triplet", head=(16, 8), **TINY)
    assert other.parts == () and not (other.path / "parts.safetensors").exists()
    with pytest.raises(NearfarError, match="its method saves none"):
        other.part("g")
    again = nearfar.pretrain(photos, out=simclr, method="triplet", head=(16, 8), overwrite=True, **TINY)
    assert again.parts == () and not (simclr / "parts.safetensors").exists()
    nearfar.pretrain(photos, out=simclr, head=(16, 8), overwrite=True, **TINY)


def test_every_part_that_a_method_keeps_is_there() -> None:
    from small import IMAGE_METHODS, small

    for name in IMAGE_METHODS:
        module = small(name)
        assert all(dict(module.named_children())[part] is not module.f for part in module.keep)

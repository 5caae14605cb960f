"""The sheet of views: what it shows is what training would see, and its sentence says what is changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import nearfar
from nearfar.cli.main import main
from nearfar.training import preview, recipes
from nearfar.training.preview import CELL, GAP


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Make four pictures of one colour each, and a broken file."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, colour in {"red": (200, 30, 30), "green": (30, 160, 30), "blue": (20, 40, 180)}.items():
        Image.new("RGB", (40, 32), colour).save(folder / f"{name}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def test_a_row_an_image_and_a_column_a_view(photos: Path, tmp_path: Path) -> None:
    found = nearfar.preview(photos, out=tmp_path / "sheet.png", draws=3)
    sheet = Image.open(found.path)
    assert sorted(found.images) == ["blue.png", "green.png", "red.png"]
    assert sheet.size == (4 * (CELL + GAP) + 2 * GAP, 3 * (CELL + GAP) + GAP)
    for row, name in enumerate(found.images):  # the first column is the image itself
        colour = Image.open(photos / name).getpixel((0, 0))
        assert sheet.getpixel((GAP + 5, GAP + row * (CELL + GAP) + 5)) == colour


def test_views_that_keep_the_colour_show_it_and_say_so(photos: Path, tmp_path: Path) -> None:
    kept = nearfar.preview(
        photos, out=tmp_path / "a.png", hue=0.0, grayscale=0.0, jitter=0.0, flip=0.0, blur=0.0
    )
    pixels = np.asarray(Image.open(kept.path))
    used = pixels[(pixels != (250, 250, 248)).any(axis=2)]
    assert len(np.unique(used, axis=0)) == 3
    assert kept.erased == ()
    strong = nearfar.preview(photos, out=tmp_path / "b.png", hue=0.1, grayscale=0.2)
    assert {"hue", "colour", "left and right"} <= set(strong.erased)
    assert len(np.unique(np.asarray(Image.open(strong.path)).reshape(-1, 3), axis=0)) > 10


def test_the_same_seed_gives_the_same_sheet(photos: Path, tmp_path: Path) -> None:
    made = [
        nearfar.preview(photos, out=tmp_path / f"{at}.png", seed=seed) for at, seed in enumerate((1, 1, 2))
    ]
    one, same, other = (item.path.read_bytes() for item in made)
    assert one == same != other


@pytest.mark.parametrize("method", ["dino", "supcon", "rotnet"])
def test_every_method_shows_its_own_views(method: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (32, 32), (9, 9, 9)).save(tmp_path / "photos" / name / "x.png")
    sheet = Image.open(nearfar.preview(tmp_path / "photos", out=tmp_path / "s.png", method=method).path)
    assert sheet.size == (9 * (CELL + GAP) + 2 * GAP, 2 * (CELL + GAP) + GAP)


def test_the_kind_of_a_mixed_folder_is_asked_for_and_can_be_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (32, 32), "red").save(tmp_path / "a.png")
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    words = ["views", str(tmp_path), "--out", str(tmp_path / "views" / "s.png")]
    assert main(words) == 2 and "--modality images or --modality sound" in capsys.readouterr().err
    assert main([*words, "--modality", "images"]) == 0


def test_the_recipe_is_that_of_the_device_which_would_train(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preview, "device_named", lambda name: torch.device("cuda"))
    found = nearfar.preview(photos, out=tmp_path / "s.png", images=1, draws=1)
    assert found.settings["grayscale"] == recipes.cifar_short(16).views.grayscale != 0.2


def test_texts_have_no_picture_whatever_splits_them(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the ship")
    with pytest.raises(nearfar.NearfarError, match="holds text, which have no picture"):
        nearfar.preview(tmp_path, out=tmp_path / "s.png", method="mlm", tokenizer="tokenizer.json")


def test_wrong_words_are_sentences(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(nearfar.NearfarError, match=r"is no picture; name a \.png"):
        nearfar.preview(photos, out=tmp_path / "sheet.pdf")
    with pytest.raises(nearfar.NearfarError, match="--images is 0; give 1 to 50"):
        nearfar.preview(photos, out=tmp_path / "sheet.png", images=0)
    assert not (tmp_path / "sheet.png").exists()

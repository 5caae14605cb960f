"""The demo's pictures: the same for a seed, told apart by form and not by pixels, with answers that hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nearfar.core.errors import BadImage, NearfarError
from nearfar.demo import drawings, gallery
from nearfar.demo.demo import demo as run_demo
from nearfar.images import decode
from nearfar.training import resolve


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("demo")
    return folder, gallery.write(folder, photos=8, train=3, test=2)


def test_pictures_depend_on_the_seed_and_nothing_else() -> None:
    few = drawings.draw("star", 3, 5, "a")
    assert few.shape == (3, 40, 40, 3) and few.dtype == np.uint8
    assert np.array_equal(drawings.draw("star", 9, 5, "a")[:3], few)
    assert not np.array_equal(drawings.draw("star", 3, 6, "a"), few)
    assert not np.array_equal(drawings.draw("star", 3, 5, "b"), few)
    assert len({picture.tobytes() for picture in drawings.draw("star", 50, 5, "a")}) == 50


def test_every_form_shows_itself() -> None:
    """Where form and background differ, a good share of the picture lies on either side."""
    for form in drawings.FORMS:
        grey = drawings.draw(form, 40, 0, "contrast").mean(axis=3)
        assert grey.std(axis=(1, 2)).min() > 8, form


def test_raw_pixels_fail() -> None:
    """The nearest picture by mean-centred pixels is of the same class little more often than by chance."""
    base = np.stack([drawings.draw(form, 60, 0, "train") for form in drawings.FORMS]).reshape(600, -1) / 255.0
    asked = np.stack([drawings.draw(form, 30, 0, "test") for form in drawings.FORMS]).reshape(300, -1) / 255.0
    centre = base.mean(axis=0)
    base, asked = base - centre, asked - centre
    base /= np.linalg.norm(base, axis=1, keepdims=True)
    nearest = (asked @ base.T).argmax(axis=1) // 60
    accuracy = float((nearest == np.arange(300) // 30).mean())
    assert accuracy < 0.3, accuracy


def test_folders_and_formats(written: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = written
    for part, each in (("train", 3), ("test", 2)):
        classes = sorted(path.name for path in (folder / "labelled" / part).iterdir())
        assert classes == sorted(drawings.FORMS)
        assert all(len(list((folder / "labelled" / part / name).iterdir())) == each for name in classes)
    suffixes = {path.suffix for path in (folder / "photos").iterdir()}
    assert suffixes == {".jpg", ".png", ".webp", ".bmp"}
    assert not (folder / ".drawing").exists()
    with Image.open(folder / "pictures.png") as sheet:
        assert sheet.size[0] > 600


def test_the_answers_hold(written: tuple[Path, dict[str, Any]]) -> None:
    folder, answers = written
    photos = folder / "photos"
    names = {path.name for path in photos.iterdir()}
    kinds = [answers["near_copies"], answers["exact_copies"], answers["odd"], list(answers["broken"])]
    assert [len(kind) for kind in kinds] == [30, 12, 12, 8]
    assert len(names) == 8 * len(drawings.FORMS) + 30 + 12 + 12 + 8

    bad = set()
    for name in names:
        try:
            decode.decode((photos / name).read_bytes(), max_pixels=10**8)
        except BadImage:
            bad.add(name)
    assert bad == set(answers["broken"])

    for one, other in answers["exact_copies"]:
        assert one != other and (photos / one).read_bytes() == (photos / other).read_bytes()
    for one, other in answers["near_copies"]:
        a, b = (
            decode.decode((photos / name).read_bytes(), max_pixels=10**8).astype(float)
            for name in (one, other)
        )
        assert (photos / one).read_bytes() != (photos / other).read_bytes()
        # A copy is like its original, but for colour where the original was written grey.
        assert np.corrcoef(a.mean(axis=2).ravel(), b.mean(axis=2).ravel())[0, 1] > 0.8
    assert set(answers["odd"]) < names


def test_written_once_and_only_over_our_own(
    written: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("nearfar.core.progress.say", said.append)
    folder, answers = written
    before = {path: path.stat().st_mtime_ns for path in (folder / "photos").iterdir()}
    assert gallery.write(folder, photos=8, train=3, test=2) == answers
    assert {path: path.stat().st_mtime_ns for path in (folder / "photos").iterdir()} == before
    with pytest.raises(NearfarError, match="another demo"):
        gallery.write(folder, seed=1, photos=8, train=3, test=2)
    for name in ("photos", "notes.txt", "pictures.png"):
        place = tmp_path / name
        place.mkdir()
        (place / name).touch()
        for start in (lambda at: gallery.write(at, photos=8, train=3, test=2), lambda at: run_demo(out=at)):
            with pytest.raises(NearfarError, match=f"holds '{name}' and is not the folder of a demo"):
                start(place)
        assert [item.name for item in place.iterdir()] == [name]
    with pytest.raises(NearfarError, match="notes.txt is no folder"):
        run_demo(out=tmp_path / "notes.txt" / "notes.txt" / "demo")
    with pytest.raises(NearfarError, match="--minutes is nan"):
        run_demo(out=tmp_path / "new", minutes=float("nan"))
    assert not (tmp_path / "new").exists()
    for hurt in ("[]", '{"seed": 0, "each": [300, 60, 40], "broken": {}, "near_copies": 5}'):
        (tmp_path / "answers.json").write_text(hurt)
        with pytest.raises(NearfarError, match=r"answers\.json is damaged"):
            run_demo(out=tmp_path)
    assert not said  # nothing is announced that is then refused


def test_a_seed_that_no_training_takes_is_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    with pytest.raises(NearfarError, match="--seed is -1"):
        run_demo(out=tmp_path / "demo", seed=-1)
    assert not (tmp_path / "demo").exists()


def test_a_demo_of_another_length_is_refused_with_the_flag_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery, "there", lambda folder, seed: {})
    made = resolve.resolve("simclr", "cpu", {"minutes": 2.0}, side=40, device=torch.device("cpu"))
    data = {"name": "photos", "images": 1, "fingerprint": ""}
    config = {"nearfar": "0", "torch": "0", "asked": {}, "data": data, **made.to_json(), "plan": [[0, 8]]}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    with pytest.raises(NearfarError, match="demo of 2 minutes; give --minutes 2, or choose a new folder"):
        run_demo(out=tmp_path, minutes=1.5)


def test_a_demo_that_ended_while_it_drew_goes_on(tmp_path: Path) -> None:
    (tmp_path / ".drawing" / "photos").mkdir(parents=True)
    (tmp_path / "pictures.png").touch()
    assert gallery.write(tmp_path, photos=8, train=1, test=1)["seed"] == 0


@pytest.mark.slow
@pytest.mark.usefixtures("narrow_resnet8")
def test_the_demo_runs_from_start_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setattr(gallery, "write", lambda folder, seed: WRITE(folder, seed, 4, 8, 4))
    result = run_demo(out=tmp_path / "d", minutes=0.02)
    plain = result.to_json()
    assert plain["broken"] == {"found": 8, "of": 8}
    assert plain["near_copies"]["of"] == 30
    assert set(plain["evaluation"]["knn"]) >= {"encoder", "pixels", "untrained", "chance"}
    for found in plain["evaluation"]["summary"].values():
        assert f"\n{found['sentence']}\n" in str(result) and "an untrained network" in found["sentence"]
    for name in ("photos.parquet", "run/encoder.safetensors", "answers.json", "pictures.png", "report.html"):
        assert (tmp_path / "d" / name).exists()
        assert name.split("/")[0] in str(result)


WRITE = gallery.write

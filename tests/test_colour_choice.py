"""Whether views keep colours: by labels, by the images themselves, by what is typed, and once a run."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from nearfar import check, pretrain
from nearfar.data.inspection import inspect
from nearfar.data.sources import open_source
from nearfar.features.colour_and_shape import Colours, Shapes, nearest_agree, neighbours_shared
from nearfar.images.view_settings import Views, keeping
from nearfar.training import colour_choice
from nearfar.training.colour_choice import FEWEST, choose_colour, is_open, with_colour
from nearfar.training.resolve import resolve

pytestmark = pytest.mark.usefixtures("whole_looks")

COUNT = 120
TINTS = ((200, 60, 60), (60, 180, 70), (60, 80, 210), (200, 190, 60), (190, 70, 190), (70, 190, 190))
KINDS = len(TINTS)


def pictures(told_by: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw six kinds of bars in six colours: the class is the colour, the kind of bars, both or neither."""
    r = np.random.default_rng(seed)
    labels = np.arange(COUNT) % KINDS
    colour = labels if told_by in ("colour", "both") else r.integers(0, KINDS, COUNT)
    shape = labels if told_by in ("shape", "both") else r.integers(0, KINDS, COUNT)
    at = np.arange(32)
    down, across = np.meshgrid(at, at, indexing="ij")
    found = np.zeros((COUNT, 32, 32, 3), np.uint8)
    for row in range(COUNT):
        ramp = (down, across, down + across)[shape[row] % 3] + r.integers(0, 6)
        light = 0.55 + 0.45 * (ramp // (3 + 4 * (shape[row] // 3)) % 2)
        tint = np.array(TINTS[colour[row]]) + r.normal(0, 8, 3)
        found[row] = np.clip(light[..., None] * tint + r.normal(0, 6, (32, 32, 3)), 0, 255)
    return found, labels


def chosen(data):
    return choose_colour(data, open_source(data), limit=10**7, threads=1)


@pytest.mark.parametrize(("told_by", "colour"), [("colour", "keep"), ("shape", "change")])
def test_labels_decide(told_by, colour):
    images, labels = pictures(told_by)
    found = chosen((images, labels))
    assert (found.colour, found.images, found.classes) == (colour, COUNT, KINDS)
    assert max(found.by_colour, found.by_shape) > 0.9 and min(found.by_colour, found.by_shape) < 0.6
    assert "same label" in str(found)


@pytest.mark.parametrize(("told_by", "colour"), [("both", "some"), ("neither", "change")])
def test_without_labels_colours_must_go_with_shapes(told_by, colour):
    found = chosen(pictures(told_by)[0])
    assert (found.colour, found.classes, found.by_colour) == (colour, 0, None)
    assert found.shared > 2.4 if colour == "some" else found.shared < 2


def test_labels_drawn_at_random_leave_it_to_the_images():
    images, labels = pictures("both")
    drawn = np.random.default_rng(3).permutation(labels)
    found = chosen((images, drawn))
    assert abs(found.by_colour - 1 / KINDS) < 0.12 and abs(found.by_shape - 1 / KINDS) < 0.12


def test_grey_images_and_few_images_change_nothing():
    images = pictures("shape")[0]
    grey = np.repeat(images.mean(-1, keepdims=True).astype(np.uint8), 3, axis=-1)
    assert chosen(grey).colour == "change" and "have none" in str(chosen(grey))
    assert "too few" in str(chosen(images[: FEWEST - 1]))


def test_shared_neighbours_are_chance_for_unrelated_vectors():
    r = torch.Generator().manual_seed(0)
    x, y = (torch.randn(1000, 8, generator=r) for _ in range(2))
    assert neighbours_shared(x, y) == pytest.approx(1, abs=0.35)
    assert neighbours_shared(x, x - x.mean(0)) == pytest.approx(999 / 10)


def test_nearest_agree_against_a_loop():
    r = torch.Generator().manual_seed(1)
    x, labels = torch.randn(30, 5, generator=r), torch.arange(30) % 4
    c = x - x.mean(0)
    for row in range(30):
        others = [at for at in range(30) if at != row]
        best = max(others, key=lambda at: float(torch.cosine_similarity(c[row], c[at], dim=0)))
        assert bool(nearest_agree(x, labels)[row]) == (labels[best] == labels[row])


def test_colours_ignore_place_and_shapes_ignore_tint():
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    rolled = x.roll(9, dims=3)
    assert torch.equal(Colours()(x), Colours()(rolled))
    grey = x.mean(1, keepdim=True).expand_as(x)
    dim = 0.5 * grey
    assert torch.allclose(Shapes()(grey)[:, :128], Shapes()(dim)[:, :128], atol=0.05)


def resolved(**asked):
    return resolve("simclr", "cpu", {"steps": 1, **asked}, side=32, device=torch.device("cpu"))


def test_what_is_typed_is_not_asked_of_the_images():
    assert is_open(resolved())
    for typed in ({"hue": 0.0}, {"grayscale": 0.1}, {"saturation": 0.2}, {"colour": "change"}):
        assert not is_open(resolved(**typed))
    for method in ("mae", "jigsaw", "relative_position", "pirl"):  # change none, or must hide them
        assert not is_open(resolve(method, "cpu", {"steps": 1}, side=32, device=torch.device("cpu")))
    kept = resolved(colour="keep").views
    assert (kept.hue, kept.grayscale, kept.saturation) == (0.0, 0.0, 0.1)
    assert resolved(colour="keep", hue=0.02).views.hue == 0.02
    assert not is_open(resolve("simclr", "cifar-short", {}, side=32, device=torch.device("cpu")))


def test_each_choice_becomes_numbers():
    wanted = resolved()
    assert with_colour(wanted, "keep").views == keeping(wanted.views)
    changed = with_colour(wanted, "change")
    assert (changed.views.hue, changed.settings.keep_colour) == (Views().hue, False)
    assert with_colour(wanted, "some").settings.keep_colour is True
    other = resolve("vicreg", "cpu", {"steps": 1}, side=32, device=torch.device("cpu"))
    assert with_colour(other, "some").views.hue > 0


TINY = {
    "steps": 2,
    "batch_size": 16,
    "encoder": "resnet10_w16",
    "image_size": 16,
    "head": [16, 8],
    "precision": "float32",
    "views_on": "cpu",
    "compile": "no",
    "threads": 1,
    "device": "cpu",
    "health_checks": 0,
}


def test_a_run_decides_once_and_keeps_to_it(tmp_path):
    images, labels = pictures("colour")
    run = pretrain((images, labels), out=tmp_path / "run", **TINY)
    config = json.loads((run.folder / "config.json").read_text())
    assert config["colours"]["colour"] == config["views"]["colour"] == "keep"
    assert (config["views"]["hue"], config["colours"]["classes"]) == (0.0, KINDS)
    assert run.provenance["labels"] == f"{COUNT} told whether views keep colours"
    (run.folder / "encoder.json").unlink()  # as if it had been stopped: the same run, though labels have gone
    assert json.loads((pretrain(images, out=run.folder, **TINY).folder / "config.json").read_text()) == config


def test_check_tells_what_a_run_would_do():
    found = check(pictures("shape"), **TINY)
    assert found.colours.colour == found.to_json()["colours"]["colour"] == "change"
    assert "views change them" in str(found)


def test_what_a_check_decoded_is_not_decoded_again(tmp_path):
    for number, image in enumerate(pictures("colour")[0]):
        Image.fromarray(np.kron(image, np.ones((2, 3, 1), np.uint8))).save(tmp_path / f"{number:03}.jpg")
    source, seen = open_source(tmp_path), {}
    found = choose_colour(tmp_path, source, limit=10**7, threads=1)
    inspect(source, max_pixels=10**7, threads=2, seconds=60, glances=seen)
    for file in tmp_path.iterdir():
        file.write_bytes(b"")  # which nothing could be told from
    again = choose_colour(tmp_path, source, limit=10**7, threads=1, glances=seen)
    assert again == found and found.images == COUNT


def test_images_of_many_bits_are_looked_at_in_one_range() -> None:
    images = np.full((4, 8, 8, 3), 60_000, np.uint16)
    images[:2] = np.arange(8, dtype=np.uint16)[:, None] * 100  # dark, and not as bright as the others
    pixels, _ = colour_choice._sample(open_source(images), 10**6, 1, {})
    assert sorted(int(one.max()) for one in pixels) == [3, 3, 233, 233]

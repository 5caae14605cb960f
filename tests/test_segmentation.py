"""Tests of segmentation: masks of every kind, the figures, the network, and the baseline."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from drawn_labels import HEIGHT, VALUES, WIDTH, answers_of, picture, restored, train_a_little, write_masks
from PIL import Image
from sklearn.metrics import jaccard_score

from nearfar.analysis import segmentation_scores
from nearfar.core import rng
from nearfar.core.errors import NearfarError
from nearfar.data import pixel_labels
from nearfar.data.coco import run_lengths
from nearfar.data.pixel_labels import IGNORED, open_pixel_labels
from nearfar.finetuning.segment import Config, Pixels, Segmentation
from nearfar.finetuning.segment_baseline import PIXELS, ColourFeatures
from nearfar.finetuning.task_types import Setup, Where
from nearfar.images.views import Preprocess
from nearfar.models.pixel_heads import HEADS


def folder(path, count=6, suffix=".bmp", values=VALUES):
    """Write images and masks into one folder."""
    path.mkdir(parents=True)
    for at in range(count):
        pixels, mask, _ = picture(at)
        Image.fromarray(pixels).save(path / f"{at:02d}{suffix}")
        Image.fromarray(values[mask].astype(np.uint8 if values.max() < 256 else np.uint16)).save(
            path / f"{at:02d}{'' if suffix == '.bmp' else '_mask'}.png"
        )
    return path


def test_masks_beside_images_are_numbered_by_their_values(tmp_path):
    found = open_pixel_labels(folder(tmp_path / "a"))
    assert found.classes == ("0", "128", "255") and found.values == (0, 128, 255) and len(found.source) == 6
    assert all(path.endswith(".bmp") for path in found.source.paths)
    for at, mask in enumerate(found.masks):
        assert (mask.read() == picture(at)[1]).all()


def test_masks_in_a_folder_elsewhere_and_images_without_one(tmp_path):
    place = write_masks(tmp_path / "a", 4)
    (place / "masks/02.png").unlink()
    found = open_pixel_labels(place)
    assert len(found.source) == 3 and "1 image is" in found.notes[0]
    again = open_pixel_labels(place / "images", place / "masks")
    assert [path[-6:] for path in again.source.paths] == ["00.png", "01.png", "03.png"]
    assert "1 image is" in again.notes[0] and (again.masks[2].read() == picture(3)[1]).all()


def test_masks_of_16_bits_with_gaps_and_names(tmp_path):
    place = folder(tmp_path / "a", 3, ".png", np.array([3, 700, 40000]))
    (place / "classes.txt").write_text("3 ground\n40000 square\n")
    found = open_pixel_labels(place)
    assert found.values == (3, 700, 40000) and found.classes == ("ground", "700", "square")
    assert (found.masks[2].read() == picture(2)[1]).all()


def test_a_palette_is_read_by_its_numbers_and_its_border_is_left_out(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    pixels, mask, _ = picture(0)
    Image.fromarray(pixels).save(tmp_path / "images/x.jpg")
    marked = mask.copy()
    marked[0] = 255
    image = Image.new("P", (WIDTH, HEIGHT))
    image.putdata(marked.ravel().tolist())
    image.putpalette([v for k in range(256) for v in ((k * 37) % 256, (k * 91) % 256, k)])
    image.save(tmp_path / "masks/x.png")
    found = open_pixel_labels(tmp_path)
    assert found.values == (0, 1, 2) and len(found.notes) == 1
    read = found.masks[0].read()
    assert (read[0] == IGNORED).all() and (read[1:] == mask[1:]).all()


def test_colours_are_classes(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    pixels, mask, _ = picture(0)
    Image.fromarray(pixels).save(tmp_path / "images/x.png")
    Image.fromarray(np.array([(0, 0, 0), (0, 255, 0), (255, 0, 0)], np.uint8)[mask]).save(
        tmp_path / "masks/x.png"
    )
    found = open_pixel_labels(tmp_path)
    assert found.classes == ("#000000", "#00ff00", "#ff0000") and (found.masks[0].read() == mask).all()


def test_grey_is_a_colour_where_other_masks_have_colours(tmp_path):
    """White alone would be read as 255, which is the blue of the others."""
    white, blue, red = (255, 255, 255), (0, 0, 255), (255, 0, 0)
    masks = {"train/a": [white, blue], "train/b": [white], "train/c": [red, blue], "test/d": [white]}
    for name, colours in masks.items():
        for kind in ("images", "masks"):
            (tmp_path / name).parent.joinpath(kind).mkdir(parents=True, exist_ok=True)
        place, stem = (tmp_path / name).parent, name[-1]
        Image.fromarray(picture(0)[0]).save(place / f"images/{stem}.png")
        drawn = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        drawn[:] = np.array(colours, np.uint8)[np.arange(HEIGHT) * len(colours) // HEIGHT][:, None]
        Image.fromarray(drawn).save(place / f"masks/{stem}.png")
    found = open_pixel_labels(tmp_path / "train")
    assert found.classes == ("#0000ff", "#ff0000", "#ffffff")
    assert [np.unique(mask.read()).tolist() for mask in found.masks] == [[0, 2], [2], [0, 1]]
    task = Segmentation(Config(side=32))
    task.read(tmp_path / "train", Preprocess(), Where())
    test = task.read_test(tmp_path / "test", Preprocess(), Where())
    assert (test.targets[0].read() == 2).all()
    again = Segmentation(Config(side=32))
    again.restore(task.card(), "")
    (tmp_path / "out.png").write_bytes(again.files(Pixels(test.targets[0].read(), 1.0))[".png"])
    assert (np.asarray(Image.open(tmp_path / "out.png")) == (255, 255, 255)).all()


def test_a_palette_or_grey_file_beside_colours_is_read_by_its_colours(tmp_path):
    """As programs save an image of few colours, or of none, in less room."""
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    drawn = np.array([(0, 0, 0), (0, 255, 0), (255, 255, 255)], np.uint8)[picture(0)[1]]
    saved = {"x": Image.fromarray(drawn), "y": Image.fromarray(drawn).quantize(4)}
    for stem, image in saved.items():
        Image.fromarray(picture(0)[0]).save(tmp_path / f"images/{stem}.png")
        image.save(tmp_path / f"masks/{stem}.png")
    found = open_pixel_labels(tmp_path)
    assert found.classes == ("#000000", "#00ff00", "#ffffff")
    assert all((mask.read() == picture(0)[1]).all() for mask in found.masks)


def test_pixels_that_count_for_nothing_are_of_no_class(tmp_path):
    place = write_masks(tmp_path / "a", 4)
    task = Segmentation(Config(side=32, ignore=255))
    data = task.read(place, Preprocess(), Where())
    assert set(np.concatenate([task.labels_on(mask) for mask in data.targets]).tolist()) == {0, 1}


def test_outlines_of_a_coco_file(tmp_path):
    pixels, _, _ = picture(0)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    Image.fromarray(pixels).save(tmp_path / "y.png")
    square, inner = [10, 5, 30, 5, 30, 25, 10, 25], [14, 9, 20, 9, 20, 15, 14, 15]
    content = {
        "images": [
            {"id": 7, "file_name": "x.png", "height": HEIGHT, "width": WIDTH},
            {"id": 9, "file_name": "y.png"},
        ],
        "categories": [{"id": 5, "name": "cell"}, {"id": 2, "name": "dirt"}],
        "annotations": [
            {"id": 2, "image_id": 7, "category_id": 2, "segmentation": [inner]},
            {"id": 1, "image_id": 7, "category_id": 5, "segmentation": [square]},
            {"id": 3, "image_id": 7, "category_id": 5, "bbox": [0, 0, 4, 4]},
        ],
    }
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    found = open_pixel_labels(tmp_path)
    assert found.classes == ("background", "dirt", "cell")
    mask = found.masks[0].read()
    assert mask[12, 17] == 1 and mask[6, 12] == 2 and mask[0, 0] == 0
    assert (found.masks[1].read() == 0).all() and found.masks[1].read().shape == (HEIGHT, WIDTH)
    assert len(found.notes) == 1 and "1 annotation is" in found.notes[0]


def test_run_lengths_as_the_reference_writes_them():
    mask_api = pytest.importorskip("faster_coco_eval.core.mask")
    mask = np.zeros((13, 9), np.uint8)
    mask[2:9, 3:7] = 1
    mask[12, 0] = 1
    code = mask_api.encode(np.asfortranarray(mask))
    assert (run_lengths(code["counts"], *code["size"]) == mask).all()
    assert (run_lengths([2, 3, 1], 3, 2) == np.array([[0, 1], [0, 1], [1, 0]])).all()


def test_errors_name_the_file(tmp_path):
    place = folder(tmp_path / "a", 2)
    Image.fromarray(np.zeros((10, 90), np.uint8)).save(place / "01.png")
    with pytest.raises(NearfarError, match="mask of 01.bmp is 90 x 10"):
        Segmentation(Config()).read(place, Preprocess(), Where())
    Image.fromarray(np.random.default_rng(0).integers(0, 60000, (HEIGHT, WIDTH)).astype(np.uint16)).save(
        place / "01.png"
    )
    with pytest.raises(NearfarError, match="more than 255 values"):
        open_pixel_labels(place)
    (tmp_path / "b").mkdir()
    Image.fromarray(picture(0)[0]).save(tmp_path / "b/x.jpg")
    with pytest.raises(NearfarError, match="holds no masks"):
        open_pixel_labels(tmp_path / "b")


def test_a_class_that_was_not_trained_is_named_and_one_that_is_not_tested_is_left_out(tmp_path):
    train = folder(tmp_path / "a", 3, values=np.array([0, 1, 1]))
    test = folder(tmp_path / "b", 3)
    task = Segmentation(Config(side=32))
    task.read(train, Preprocess(), Where())
    with pytest.raises(NearfarError, match="class '128'"):
        task.read_test(test, Preprocess(), Where())
    task = Segmentation(Config(side=32))
    task.read(test, Preprocess(), Where())
    data = task.read_test(folder(tmp_path / "c", 2, values=np.array([0, 128, 128])), Preprocess(), Where())
    figures = task.measure([Pixels(mask.read(), 1.0) for mask in data.targets], data)
    assert figures.score == 1.0 and set(figures.per_class) == {"0", "128"}


def test_masks_of_another_size_are_brought_to_the_images(tmp_path):
    place = folder(tmp_path / "a", 3)
    with Image.open(place / "00.png") as mask:
        mask.resize((2 * WIDTH, 2 * HEIGHT), 0).save(place / "00.png")
    task = Segmentation(Config(side=32))
    data = task.read(place, Preprocess(), Where())
    assert data.dataset.gather(np.array([0])).image(0).shape == (32, 43, 3)
    feed = task.feed(data, Setup(None, torch.device("cpu")), batch_size=5, start=0)
    x, y = feed.make(3).views
    assert x.shape == (5, 3, 32, 32) and y.shape == (5, 32, 32) and set(y.unique().tolist()) <= {0, 1, 2, 255}
    again = task.feed(data, Setup(None, torch.device("cpu"), workers=2), batch_size=5, start=3)
    batch = next(iter(again))
    again.close()
    assert torch.equal(batch.views[0], x) and torch.equal(batch.views[1], y)


def test_a_crop_moves_the_mask_with_its_image(tmp_path):
    task = Segmentation(Config(side=48, turns=True))
    data = task.read(folder(tmp_path / "a", 6), Preprocess(), Where())
    feed = task.feed(data, Setup(None, torch.device("cpu"), seed=1), batch_size=6, start=0)
    for step in range(4):
        x, y = feed.make(step).views
        red, blue = x[:, 0] - x[:, 2] > 0.3, x[:, 2] - x[:, 0] > 0.3
        for kind, seen in ((1, red), (2, blue)):
            both = ((y == kind) & seen).sum() / ((y == kind) | seen).sum()
            assert both > 0.85
    assert (y == 255).any()  # beyond the border


def test_figures_equal_the_reference():
    generator = np.random.default_rng(0)
    truth = [generator.integers(0, 4, (9, 11)).astype(np.uint8) for _ in range(5)]
    guess = [np.where(generator.random((9, 11)) < 0.6, t, generator.integers(0, 4, (9, 11))) for t in truth]
    guess = [one.astype(np.uint8) for one in guess]
    truth[0][:2] = IGNORED
    counts = np.stack(
        [segmentation_scores.confusion(t, g, 5, IGNORED) for t, g in zip(truth, guess, strict=True)]
    )
    found = segmentation_scores.scores(counts, tuple("abcde"))
    kept = np.concatenate([t.ravel() for t in truth]) != IGNORED
    flat = [np.concatenate([one.ravel() for one in some])[kept] for some in (truth, guess)]
    wanted = jaccard_score(*flat, average=None, labels=range(4))
    assert np.allclose([found.per_class[name] for name in "abcd"], wanted, atol=1e-12, rtol=0)
    assert np.isnan(found.per_class["e"]) and found.miou == pytest.approx(wanted.mean(), abs=1e-12)
    alone = [
        jaccard_score(t[t != IGNORED], g[t != IGNORED], average="macro")
        for t, g in zip(truth, guess, strict=True)
    ]
    assert found.image_miou == pytest.approx(np.mean(alone), abs=1e-12)
    assert found.low < found.miou < found.high
    assert json.dumps(found.to_json())
    assert segmentation_scores.scores(0 * counts, tuple("abcde")).miou == 0  # all pixels are ignored


def test_an_image_whose_pixels_are_all_ignored_leaves_the_interval_a_number():
    counts = np.stack([np.array([[50, 5], [5, 40]]), np.zeros((2, 2), np.int64)])
    found = segmentation_scores.scores(counts, ["a", "b"])
    assert found.low == found.high == found.miou == pytest.approx((50 / 60 + 40 / 50) / 2)


@pytest.mark.parametrize("decoder", HEADS)
def test_every_decoder_learns_and_predicts_images_of_any_size(decoder, tmp_path):
    task = Segmentation(Config(decoder=decoder, side=32))
    data = task.read(folder(tmp_path / "a", 6), Preprocess(), Where())
    network, losses = train_a_little(task, data, 0.003, 32)
    assert sum(losses[-3:]) < 0.95 * sum(losses[:3])
    answers = answers_of(task, network, data)
    assert {one.classes.shape for one in answers} == {(32, 43)}  # as decoded
    assert 0 < task.measure(answers, data).score <= 1
    same = answers_of(*restored(task, network), data)
    assert all((a.classes == b.classes).all() for a, b in zip(answers, same, strict=True))


def test_a_mask_is_written_with_the_values_it_was_read_with(tmp_path):
    for values in (VALUES, np.array([3, 700, 40000])):
        task = Segmentation(Config(side=32))
        place = folder(tmp_path / str(values[1]), 2, ".png", values)
        data = task.read(place, Preprocess(), Where())
        answer = Pixels(data.targets[1].read(), 1.0)
        (tmp_path / "out.png").write_bytes(task.files(answer)[".png"])
        assert (pixel_labels.read_values(tmp_path / "out.png") == values[picture(1)[1]]).all()
        assert sum(row[1] for row in task.rows(answer)) == pytest.approx(1)
        shown, text = task.draw(picture(1)[0], answer)
        assert shown.shape == (HEIGHT, WIDTH, 3) and " %" in text


def test_colour_features_tell_colours_apart(tmp_path):
    task = Segmentation(Config(side=48))
    data = task.read(folder(tmp_path / "a", 4), Preprocess(), Where())
    test = task.read_test(folder(tmp_path / "b", 4), Preprocess(), Where())
    fitted = ColourFeatures(task.side, 3).fit(data.dataset, data.targets)
    answers = [Pixels(classes, 1.0) for classes in fitted.predict(test.dataset)]
    assert task.measure(answers, test).score > 0.9


def test_colour_features_take_a_class_of_which_a_single_pixel_is_drawn(tmp_path):
    """scikit-learn stops early by pixels that it holds out of each class, where there are many."""
    place = folder(tmp_path / "a", 4)
    for path in place.glob("*.png"):  # more pixels than it takes to hold some out
        Image.open(path).resize((4 * WIDTH, 4 * HEIGHT), 0).save(path)
        path = path.with_suffix(".bmp")
        Image.open(path).resize((4 * WIDTH, 4 * HEIGHT), 0).save(path)
    with Image.open(place / "00.png") as mask:
        mask.putpixel((0, 0), 77)
        mask.save(place / "00.png")
    task = Segmentation(Config(side=192))
    data = task.read(place, Preprocess(), Where())
    assert task.values == (0, 77, 128, 255)
    share = next(seed for seed in range(99) if 0 in _drawn(seed, 4 * WIDTH * 4 * HEIGHT))
    fitted = ColourFeatures(task.side, 4, share).fit(data.dataset, data.targets)
    assert set(np.unique(fitted.predict(data.dataset)[0])) <= {0, 2, 3}


def _drawn(seed, count):
    """Say which pixels of the first image are drawn."""
    return rng.permutation(rng.fold(seed, "pixels", 0), count)[: -(-PIXELS // 4)]

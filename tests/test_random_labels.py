"""What is called held out, with labels drawn at random: no figure may then say more than chance."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawn_labels import write_boxes
from PIL import Image
from small_pairs import TINY, drawn

import nearfar
from nearfar import models
from nearfar.analysis import identity_scores
from nearfar.analysis.detection_scores import Found
from nearfar.analysis.identity_scores import BOTH, Identities
from nearfar.data.sources import open_source
from nearfar.finetuning.detect import MIN_SCORE, Config, Detection, Objects
from nearfar.finetuning.measuring import measure
from nearfar.finetuning.outcome import TUNED
from nearfar.finetuning.task_types import Where
from nearfar.images.views import Preprocess
from nearfar.interpretation import dictionary
from nearfar.queries.part_learning import Settings, held_out, learn, thresholds
from nearfar.training.run import export, load

QUIET = {"precision": "float32", "device": "cpu", "workers": 1, "batch_size": 64}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder whose encoder has random weights."""
    folder = tmp_path_factory.mktemp("runs") / "start"
    folder.mkdir()
    encoder = models.encoder("resnet10_w16", size=16, seed=3)
    export(folder, encoder.eval(), Preprocess.of(16), {"nearfar": "0", "source": "a test"})
    return folder


def noise(folder: Path, names: list[str], seed: int) -> Path:
    """Write an image of some colour for each name, in a folder of that name: the name says nothing of it."""
    draw = np.random.default_rng(seed)
    for number, name in enumerate(names):
        (folder / name).mkdir(parents=True, exist_ok=True)
        pixels = draw.normal(draw.uniform(40, 200, 3), 25, (16, 16, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / name / f"{number:03d}.png")
    return folder


def off(share: float, chance: float, count: int) -> float:
    """Tell by how many standard errors a share of `count` lies off chance."""
    return abs(share - chance) / (chance * (1 - chance) / count) ** 0.5


def test_individuals_of_random_names_are_found_by_chance(start: Path, tmp_path: Path) -> None:
    train = noise(tmp_path / "train", [f"a{number % 12}" for number in range(48)], 0)
    test = noise(tmp_path / "test", [f"b{number % 15}" for number in range(60)], 1)
    made = nearfar.finetune(
        start, train=train, test=test, out=tmp_path / "out", task="reidentify", mode="linear",
        rerank=True, **{**QUIET, "batch_size": 16},
    )  # fmt: skip
    blank = np.full(60, BOTH)
    who = Identities(np.arange(60) % 15, np.full(60, -1), blank)
    draw, maps, firsts = np.random.default_rng(2), [], []
    for _ in range(40):
        x = draw.normal(size=(60, 3)).astype(np.float32)
        found = identity_scores.scores(who, identity_scores.by_cosine(x / np.linalg.norm(x, axis=1)[:, None]))
        maps.append(found.map)
        firsts.append(found.ranks[1])
    for name, row in made.figures["test"].items():
        for ours, chance in (("map", maps), ("rank_1", firsts), ("reranked_map", maps)):
            assert abs(row[ours] - np.mean(chance)) < 4 * np.std(chance), (name, ours)


def test_an_encoder_that_gives_all_images_one_vector_finds_nobody_in_order() -> None:
    # Folders come in the order of their names, which is that of the identities.
    who = Identities(np.repeat(np.arange(25), 4), np.full(100, -1), np.full(100, BOTH))
    draw, by_chance = np.random.default_rng(0), []
    for _ in range(20):
        x = draw.normal(size=(100, 3)).astype(np.float32)
        by_chance.append(identity_scores.scores(who, identity_scores.by_cosine(x)).map)
    found = identity_scores.scores(who, identity_scores.by_cosine(np.ones((100, 3), np.float32)))
    assert found.map <= np.mean(by_chance) and found.ranks[10] == 0


def test_names_of_features_hold_no_more_often_than_the_most_common_label() -> None:
    draw = np.random.default_rng(0)
    vectors = torch.from_numpy(draw.normal(size=(400, 12)).astype(np.float32))
    made = dictionary.fit(vectors, size=24, active=3, steps=60)
    labels = ["a"] * 180 + ["b"] * 120 + ["c"] * 100
    for activations in (made.encode(vectors), dictionary.numbers(vectors)):
        held = [
            dictionary.agreement(dictionary.describe(activations, draw.permutation(labels).tolist()))
            for _ in range(40)
        ]
        assert np.mean(held) < 180 / 400 + 3 * np.std(held) / 40**0.5


def test_normal_pictures_are_flagged_as_rarely_as_promised(start: Path, tmp_path: Path) -> None:
    fpr, run = 0.2, load(start)
    shares: list[tuple[float, float]] = []
    for seed in range(6):
        normal = open_source(noise(tmp_path / f"{seed}", ["good"] * 12, 2 * seed))
        new = open_source(noise(tmp_path / f"new{seed}", ["good"] * 12, 2 * seed + 1))
        made = learn(run, normal, None, Settings(fpr=fpr, seed=seed))
        found, pixel = thresholds(made.held, fpr, len(made.detector.pictures), [])
        assert found is not None and pixel is not None and len(made.held) == 4
        seen = [held_out(one) for one in made.detector.score(new, range(12))]
        shares.append((
            np.mean([one.score > found.value for one in seen]), np.mean([one.peak > pixel for one in seen])
        ))  # fmt: skip
    assert (np.mean(shares, axis=0) < fpr + 3 * np.std(shares, axis=0) / 6**0.5).all()


def objects(task: Detection, data: Any, right_from: float, seed: int) -> list[Objects]:
    """Boxes of random scores; those from a score on are true ones, the others are nowhere near one."""
    draw, found = np.random.default_rng(seed), []
    for target in data.targets:
        scores = draw.random(12)
        boxes = np.tile([0.0, 0.0, 0.01, 0.01], (12, 1))
        labels = np.zeros(12, np.int64)
        for at, place in zip(np.argsort(-scores), range(len(target.boxes)), strict=False):
            if scores[at] >= right_from:
                boxes[at], labels[at] = target.boxes[place], target.labels[place]
        found.append(Objects(Found(boxes, labels, scores), target.height, target.width))
    return found


def test_a_score_from_which_boxes_are_written_knows_nothing_of_the_test(tmp_path: Path) -> None:
    pytest.importorskip("faster_coco_eval")
    task = Detection(Config(side=64))
    fit = task.read(write_boxes(tmp_path / "fit", 8), Preprocess(), Where())
    tests = task.read_test(write_boxes(tmp_path / "test", 8, first=50), Preprocess(), Where())
    choice, rest = fit.take(np.arange(4)), fit.take(np.arange(4, 8))

    def chosen(held: Any, test: Any, seed: int) -> float:
        task.best = MIN_SCORE
        known = {id(choice): objects(task, choice, 0.5, 1), id(rest): objects(task, rest, 0.5, 2)}
        measure(
            task,
            {TUNED: None},  # type: ignore[dict-item]
            lambda network, part: known.get(id(part), objects(task, part, 0.9, seed)),
            fit, held, test, lambda images: {},
        )  # fmt: skip
        return task.best

    alone = chosen((choice, rest), None, 0)
    assert alone != MIN_SCORE
    assert {chosen((choice, rest), tests, seed) for seed in range(3)} == {alone}
    assert chosen(None, tests, 0) == MIN_SCORE


def test_teacher_and_student_of_random_labels_know_none(start: Path, tmp_path: Path) -> None:
    names = [f"kind{number % 4}" for number in range(200)]
    train, test = noise(tmp_path / "train", names[:48], 0), noise(tmp_path / "test", names, 1)
    teacher = nearfar.finetune(start, train=train, out=tmp_path / "teacher", mode="linear", device="cpu")
    # The unlabelled images lie in folders that are named after the test's labels, which nobody may read.
    # A batch may hold more than the labelled images.
    made = nearfar.finetune(
        start, train=train, test=test, unlabelled=str(test), teacher=str(teacher.path), out=tmp_path / "s",
        mode="full", epochs=4, lr=0.1, holdout=0, **QUIET,
    )  # fmt: skip
    rows = made.figures["test"]
    assert set(rows) == {TUNED, "frozen encoder", "teacher"}
    for name, row in rows.items():
        assert off(row["accuracy"], 1 / 4, 200) < 3.5, name


def test_shuffled_captions_and_classes_are_found_by_chance(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    draw = np.random.default_rng(4)

    def folder(count: int, seed: int, shuffled: bool) -> Path:
        place, (images, captions) = tmp_path / f"{seed}", drawn(count, seed)
        order = draw.permutation(count) if shuffled else np.arange(count)
        place.mkdir()
        with open(place / "captions.csv", "w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["path", "caption"])
            for at, pixels in enumerate(images):
                Image.fromarray(pixels).save(place / f"{at:03d}.png")
                table.writerow([f"{at:03d}.png", f"{captions[order[at]]}, {order[at]}"])
        return place

    nearfar.pretrain(folder(32, 0, False), out=tmp_path / "run", method="siglip", **{**TINY, "steps": 8})
    test = folder(120, 1, True)
    images, captions = drawn(120, 5)
    kinds = draw.permutation([caption.split()[1] for caption in captions]).tolist()
    found = nearfar.pairs(load(tmp_path / "run"), test, classes=(images, kinds), device="cpu")
    chance = found.rows["chance"]
    assert chance.image == pytest.approx((1 / 120, 5 / 120, 10 / 120)) and found.captions == 120
    for name in ("encoder", "untrained"):
        row = found.rows[name]
        assert row.low <= chance.image[0] <= row.high
        for ours in (row.image, row.text):
            assert all(off(share, by, 120) < 3.5 for share, by in zip(ours, chance.image, strict=True)), name
    told = found.classes
    assert told is not None and told.low <= told.chance <= told.high and told.images == 60
    for share in (told.words, told.linear, told.untrained):
        assert off(share, 1 / 4, 60) < 3.5

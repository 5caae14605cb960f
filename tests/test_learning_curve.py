"""nearfar learning-curve: shares of labels that contain one another, rows from each encoder, the sentence."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nearfar
from nearfar import models
from nearfar.core.errors import NearfarError
from nearfar.data import cache
from nearfar.data.sources import open_source
from nearfar.experiments.label_curves import LearningCurve, Point
from nearfar.experiments.learning_curve import _Curves
from nearfar.features import probes
from nearfar.finetuning.classify import Classification
from nearfar.finetuning.share import drawn, some_of
from nearfar.finetuning.task_types import Where
from nearfar.images.views import Preprocess
from nearfar.training.run import export

FAST = {"lr": 0.01, "epochs": 1.0, "batch_size": 8, "precision": "float32", "device": "cpu", "workers": 1}


@pytest.mark.parametrize("grouped", [False, True])
def test_what_a_small_share_draws_is_in_every_larger_one(grouped) -> None:
    draw = np.random.default_rng(0)
    groups = draw.integers(0, 40, 300) if grouped else None
    strata = groups % 3 if grouped else draw.integers(0, 3, 300)
    before = np.zeros(300, bool)
    for share in (0.001, 0.05, 0.1, 0.25, 0.6, 1.0):
        now = drawn(strata, groups, share, 1)
        assert (now >= before).all() and set(strata[now]) == {0, 1, 2}
        if grouped:
            assert not set(groups[now]) & set(groups[~now])  # a group is drawn whole
        else:
            assert abs(int(now.sum()) - 300 * share) <= 3
        before = now
    assert before.all()
    one, other = drawn(strata, groups, 0.25, 1), drawn(strata, groups, 0.25, 2)
    assert (one != other).any()


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> Path:
    """A folder with two classes of 20 noisy images of 16 px: red ones and green ones."""
    root, draw = tmp_path_factory.mktemp("data") / "labelled", np.random.default_rng(0)
    for kind in range(2):
        folder = root / f"kind{kind}"
        folder.mkdir(parents=True)
        for number in range(20):
            pixels = draw.normal(90, 30, (16, 16, 3)) + 40 * np.array([kind == 0, kind == 1, 0])
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:02d}.png")
    return root


def test_a_training_is_checked_by_images_of_all_classes_and_whole_groups(labelled) -> None:
    data = Classification().read(labelled, Preprocess.of(16), Where())
    assert some_of(data, 40, 0) is data
    some = some_of(data, 10, 0)  # the first ten are of one class
    assert len(some) == 10 and set(some.targets) == {0, 1}
    pairs = some_of(replace(data, groups=np.arange(40) // 2), 10, 0)
    assert len(pairs) == 10 and set(np.bincount(pairs.groups)) == {0, 2}


@pytest.fixture(scope="module")
def start(labelled, tmp_path_factory) -> Path:
    """A run folder whose encoder has random weights and measured batch norms."""
    folder = tmp_path_factory.mktemp("runs") / "start"
    folder.mkdir()
    preprocess = Preprocess.of(16)
    source = open_source(labelled, labels=True)
    some = cache.load(source, short_side=None, max_pixels=10**6, max_bad=0.0, threads=1)
    encoder = probes.untrained(models.encoder("resnet10_w16", size=16, seed=3), some, preprocess, 3, "cpu")
    export(folder, encoder, preprocess, {"nearfar": "0", "source": "a test"})
    return folder


def test_encoders_whose_names_look_alike_have_folders_of_their_own(start, labelled, tmp_path) -> None:
    runs = [Path(shutil.copytree(start, tmp_path / name)) for name in ("a b", "a_b")]
    out = tmp_path / "curve"
    found = nearfar.learning_curve(*runs, train=labelled, out=out, shares=[1.0], known="none", **FAST)
    assert {"a b", "a_b"} <= {*found.rows}
    assert len([item for item in out.iterdir() if item.is_dir()]) == 2


def test_a_curve_from_one_encoder_resumes_and_is_written(start, labelled, tmp_path, monkeypatch) -> None:
    words = {
        "train": labelled,
        "out": tmp_path / "curve",
        "shares": [1.0, 0.05, 0.5],
        "known": "none",
        **FAST,
    }
    found = nearfar.learning_curve(start, **words)
    # A fifth of the 40 images is the test; of the other 32, 5 % are two images, too few to train on.
    assert found.test == 8 and list(found.rows) == ["start", "from scratch", "start, frozen"]
    assert [(point.labels, point.share) for point in found.rows["start"]] == [(16, 0.5), (32, 1.0)]
    assert len(found.notes) == 1 and found.notes[0].startswith("5 % of the labels: ")
    assert found.sentences()[0].startswith("Did pretraining help start? ")
    plain = json.loads((tmp_path / "curve" / "curve.json").read_text())
    assert plain["sentences"] == found.sentences() and plain["test"] == 8
    assert (tmp_path / "curve" / "curve.png").stat().st_size > 1000
    from nearfar.finetuning import session

    monkeypatch.setattr(session, "train", None)  # would be called if anything were trained again
    assert nearfar.learning_curve(start, **words) == found
    with pytest.raises(NearfarError, match="holds another run"):
        nearfar.learning_curve(start, **{**words, "lr": 0.02})


def test_every_share_is_tested_on_the_same_images(start, labelled, tmp_path) -> None:
    for share in (0.5, 1.0):
        nearfar.finetune(start, train=labelled, out=tmp_path / f"{share}", share=share, mode="linear")
    both = [json.loads((tmp_path / f"{share}" / "config.json").read_text()) for share in (0.5, 1.0)]
    assert both[0]["test"] == both[1]["test"] == {"name": both[0]["test"]["name"], "images": 8}
    assert [item["data"]["images"] + item["data"]["holdout"] for item in both] == [16, 32]


def point(labels: int, share: float, *values: float, width: float = 0.02) -> Point:
    """Figures of as many seeds, each with an interval of this width to both sides."""
    seeds = dict(enumerate(values))
    around = {seed: (value - width, value + width) for seed, value in seeds.items()}
    return Point(labels, share, seeds, around)


def curve(scratch: list[Point]) -> LearningCurve:
    own = [point(10, 0.05, 0.5), point(20, 0.1, 0.6), point(200, 1.0, 0.9)]
    rows = {"runs/a": own, "from scratch": scratch}
    return LearningCurve(Path("x"), "detect", "ap50", rows, {"runs/a": "from scratch"}, 72)


def test_the_sentence_reads_the_labels_saved_off_the_other_curve() -> None:
    # Straight in the logarithm of the labels, .6 is reached half way from 20 to 200: at 63.
    (said,) = curve([point(20, 0.1, 0.4), point(200, 1.0, 0.8)]).sentences()
    assert said == (
        "Did pretraining help runs/a? Yes: with 20 labelled images (10 %) it reaches AP50 60.0 %, and 40.0 % "
        "from scratch, which would need about 63 (3.2 times as many)."
    )
    (said,) = curve([point(20, 0.1, 0.7), point(200, 1.0, 0.8)]).sentences()
    assert "? No: " in said and said.endswith(
        "about 20 (1.0 times as many); better there: from scratch (70.0 %)."
    )
    (said,) = curve([point(20, 0.1, 0.59), point(200, 1.0, 0.5)]).sentences()
    nothing = [point(20, 0.1, 0.0003), point(200, 1.0, 0.5)]
    rows = {"runs/a": nothing, "from scratch": nothing}
    (untold,) = LearningCurve(Path("x"), "detect", "ap50", rows, {"runs/a": "from scratch"}, 72).sentences()
    assert "It cannot be told: with 20 labelled images (10 %) AP50 is 0 %" in untold
    assert "? The seeds do not decide: " in said and "would need more than all 200" in said


def test_brackets_are_explained_where_there_are_such() -> None:
    alone, several = str(curve([point(20, 0.1, 0.4)])), str(curve([point(20, 0.1, 0.4, 0.5)]))
    assert "tested on 72 images" in alone.splitlines() and "45.0 % (40.0 to 50.0)" in several
    assert "tested on 72 images; in brackets behind a figure the least and the greatest seed" in several


def test_all_labels_are_spoken_of_only_where_all_were_tried() -> None:
    rows = {"runs/a": [point(20, 0.1, 0.6)], "from scratch": [point(20, 0.1, 0.4)]}
    (said,) = LearningCurve(Path("x"), "detect", "ap50", rows, {"runs/a": "from scratch"}, 72).sentences()
    assert said.endswith("which would need more than 20.")


def test_of_groups_the_labels_are_the_mean_of_what_the_seeds_drew() -> None:
    made = _Curves(["runs/a"], {"runs/a": "runs/a"})
    made.values["runs/a"] = {0.1: {0: (10, 0.5, None), 1: (30, 0.6, None)}}
    assert made.result(Path("x"), "classify", "image").rows["runs/a"][0].labels == 20


@pytest.mark.parametrize(
    ("one", "two", "above"),
    [
        ((0.6,), (0.5,), True),  # intervals apart
        ((0.52,), (0.5,), None),  # intervals overlap, and one seed alone does not tell
        ((0.52, 0.53, 0.54), (0.5, 0.5, 0.5), True),  # every one of three seeds
        ((0.52, 0.49, 0.54), (0.5, 0.5, 0.5), None),
        ((0.4, 0.42, 0.43), (0.5, 0.5, 0.5), False),
        ((0.5,), (0.5,), None),
        ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), None),  # equal, which is not below
        ((0.4, 0.42, 0.5), (0.5, 0.5, 0.5), None),
    ],
)
def test_what_decides(one, two, above) -> None:
    assert point(20, 0.1, *one).above(point(20, 0.1, *two)) is above


def test_mistakes_are_refused_before_anything_is_trained(start, labelled, tmp_path) -> None:
    out = tmp_path / "curve"
    wrong = [
        ({"shares": [0.0, 1.0]}, "--shares are above 0"),
        ({"seeds": 0}, "--seeds 0 is no number"),
        ({"seed": 3}, "sets seed itself"),
        ({"task": "detects"}, "'detects' is not known"),
        ({"tempo": 3}, "no setting 'tempo'"),
    ]
    for words, match in wrong:
        with pytest.raises(NearfarError, match=match):
            nearfar.learning_curve(start, train=labelled, out=out, known="none", **words)
    with pytest.raises(NearfarError, match="is named twice"):
        nearfar.learning_curve(start, start, train=labelled, out=out, known="none")
    with pytest.raises(NearfarError, match="name an encoder"):
        nearfar.learning_curve(train=labelled, out=out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(NearfarError, match="is no folder of a learning curve"):
        nearfar.learning_curve(start, train=labelled, out=tmp_path / "mine", known="none")
    assert not out.exists()

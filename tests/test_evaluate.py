"""Evaluation on pictures with known answers: baselines, parts, a test set read once, a frozen encoder."""

import json
import math
import sys
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from small_colours import PREPROCESS, Colour, pictures, run  # noqa: F401
from torch import nn

from nearfar import models
from nearfar.core import progress
from nearfar.core.errors import NearfarError
from nearfar.data.source import Source
from nearfar.evaluation import few_labels, measure, paired_tests
from nearfar.evaluation.evaluate import evaluate
from nearfar.features.probes import untrained
from nearfar.finetuning import trainer
from nearfar.finetuning.classifier import FineTuned, cost, train_classifier
from nearfar.finetuning.neck import with_neck
from nearfar.images.views import Preprocess
from nearfar.models import every_scale
from nearfar.training import checkpoint
from nearfar.training.run import Run, export, load


@pytest.fixture(scope="module")
def result(run):
    return evaluate(run, train=pictures(300, 0), test=pictures(150, 1), device="cpu")


def test_an_encoder_that_sees_the_class_stands_above_the_baselines(result):
    for rows in (result.knn, result.linear):
        assert list(rows) == ["encoder", "pixels", "colours", "patches", "untrained", "chance"]
        assert rows["encoder"].accuracy > 0.85
        assert rows["chance"].accuracy == pytest.approx(1 / 3)
        assert rows["encoder"].low > max(rows["untrained"].high, rows["chance"].high)
        assert rows["encoder"].accuracy > rows["pixels"].accuracy
    assert result.images == {
        "train": 300,
        "validation": 60,
        "test": 150,
        "rejected": 0,
        "shared": 0,
        "near_copies": 0,
    }


def test_the_json_has_the_agreed_shape(result):
    plain = json.loads(json.dumps(result.to_json()))
    for part in ("knn", "linear"):
        for name in ("encoder", "pixels", "untrained", "chance"):
            row = plain[part][name]
            assert 0 <= row["low"] <= row["accuracy"] <= row["high"] <= 1
            assert np.array(row["confusion"]).sum() == 150
            assert sum(item["images"] for item in row["per_class"].values()) == 150
    assert set(plain["knn"]["encoder"]["chosen"]) == {"k", "temperature"}
    assert plain["classes"] == ["blue", "green", "red"]
    assert plain["leaks"] == {
        "near_copies": {**plain["leaks"]["near_copies"], "images": 0, "left": 150, "pairs": []}
    }
    assert plain["data"] == {"train": "the array", "test": "the array"}


def test_the_table_shows_every_row(result):
    table = result.table()
    for word in (
        "encoder",
        "pixels",
        "colour histogram",
        "k-means patches",
        "untrained",
        "chance",
        "k-NN",
        "linear",
        "green",
        "chosen: k",
    ):
        assert word in table
    assert f"{100 * result.knn['encoder'].accuracy:.1f} %" in table


def test_the_first_line_says_what_the_encoder_is_better_than(result):
    plain = json.loads(json.dumps(result.to_json()))
    assert list(plain)[0] == "summary" and list(plain["summary"]) == ["knn", "linear"]
    for number, (name, title) in enumerate((("knn", "k-NN"), ("linear", "linear"))):
        sentence = plain["summary"][name]["sentence"]
        assert result.table().splitlines()[number] == sentence
        assert sentence.startswith(f"{title}: better than an untrained network by ")
        for item in plain["summary"][name]["against"]:
            gap = plain[name]["encoder"]["accuracy"] - plain[name][item["baseline"]]["accuracy"]
            assert item["difference"] == pytest.approx(gap) and item["low"] <= gap <= item["high"]


def test_the_same_seed_gives_the_same_figures(run, result):
    again = evaluate(run, train=pictures(300, 0), test=pictures(150, 1), device="cpu", batch_size=7)
    for name in result.knn:
        assert again.knn[name].to_json() == result.knn[name].to_json()
        assert again.linear[name].accuracy == pytest.approx(result.linear[name].accuracy, abs=0.01)


class _Counted(Source):
    """An in-memory source that notes every read."""

    notes: ClassVar[list[tuple[str, int]]] = []

    def read(self, index):
        self.notes.append((self.name, index))
        return pictures(60, 1 if self.name == "test" else 0)[0][index]

    def stamp(self, index):
        return str(index)


def test_each_test_image_is_decoded_once_and_after_the_last_choice(run, monkeypatch):
    labels = tuple(pictures(60, 0)[1])
    _Counted.notes.clear()
    fit = sys.modules["nearfar.features.probes"].logistic.fit

    def noted(*args, **kwargs):
        _Counted.notes.append(("fit", -1))
        return fit(*args, **kwargs)

    monkeypatch.setattr(sys.modules["nearfar.features.probes"].logistic, "fit", noted)
    names = [str(k) for k in range(60)]
    evaluate(run, train=_Counted("train", names, labels), test=_Counted("test", names, labels), device="cpu")
    order = [name for name, _ in _Counted.notes]
    last_fit = len(order) - 1 - order[::-1].index("fit")
    assert order.count("fit") == 5
    assert "test" not in order[:last_fit] and "train" not in order[last_fit:]
    assert {row for name, row in _Counted.notes if name == "test"} == set(range(60))


class _Leaky(Colour):
    """An encoder that changes whenever it is used, as a probe that trains the backbone would."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x):
        self.count += 1
        return super().forward(x)


def test_an_encoder_that_changes_is_an_error(run):
    leaky = Run(run.path, _Leaky().eval(), PREPROCESS, {}, {})
    with pytest.raises(NearfarError, match="changed while it was evaluated"):
        evaluate(leaky, train=pictures(30, 0), test=pictures(9, 1), device="cpu")


def test_an_untrained_encoder_sees_normalised_channels(run):
    class _Store:
        def __len__(self):
            return 64

        def gather(self, rows):
            from nearfar.data.dataset import RaggedImages

            full = np.full(len(rows), 8, np.int32)
            return RaggedImages(pictures(64, 0)[0].reshape(-1), rows * 192, full, full)

    like = models.encoder("resnet10_w16", size=8)
    net = untrained(like, _Store(), PREPROCESS, 0, "cpu")
    norm = next(part for part in net.modules() if isinstance(part, nn.BatchNorm2d))
    assert not any(part.training for part in net.modules())
    inputs = []
    norm.register_forward_hook(lambda _, __, out: inputs.append(out.clone()))
    x = torch.from_numpy(pictures(64, 0)[0]).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        net(x)
    assert inputs[0].mean((0, 2, 3)).abs().max() < 0.05
    assert (inputs[0].std((0, 2, 3)) - 1).abs().max() < 0.1


def test_shuffled_labels_give_chance(run, monkeypatch):
    monkeypatch.setattr(few_labels, "DRAWS", (2, 4))

    def shuffled(count, seed):
        pixels, labels = pictures(count, seed)
        return pixels, [labels[k] for k in np.random.default_rng(seed).permutation(count)]

    train, test = shuffled(300, 0), shuffled(600, 1)
    found = evaluate(run, train=train, test=test, device="cpu", baselines=(), parts="few_labels")
    shares = [rows[name].accuracy for rows in found.scores.values() for name in rows]
    for row in found.parts["few_labels"].rows.values():
        shares += [point.mean for curve in row.values() for point in curve.values()]
    # Four standard errors of a share of 1/3 among 600 images: there are many shares.
    assert len(shares) > 15 and all(abs(share - 1 / 3) < 0.077 for share in shares)


@pytest.fixture(scope="module")
def full(run):
    parts = ("calibration", "few_labels", "retrieval", "clusters")  # in any order
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(few_labels, "DRAWS", (1, 2))
        return evaluate(run, train=pictures(300, 0), test=pictures(150, 1), device="cpu", parts=parts)


def test_parts_are_added_and_change_no_score(full, result):
    parts = ["few_labels", "retrieval", "clusters", "calibration"]
    assert list(full.parts) == parts and not result.parts
    for name in result.knn:
        assert full.knn[name].to_json() == result.knn[name].to_json()
        assert full.linear[name].to_json() == result.linear[name].to_json()
    plain = json.loads(json.dumps(full.to_json()))
    for part in parts[1:]:
        assert list(plain[part]) == ["encoder", "pixels", "untrained"]
    for words in ("Did self-supervision help? Yes", "search by example", "k-means clusters", "calibration"):
        assert words in full.table()
    assert max(map(len, full.table().splitlines())) < 200


def test_few_label_curves_rise_to_the_full_score(full):
    few = full.parts["few_labels"]
    assert [size.name for size in few.sizes][:3] == ["1 a class", "2 a class", "4 a class"]
    for name in ("encoder", "pixels", "untrained"):
        curve = few.rows[name]["linear"]
        assert curve[300].mean == full.linear[name].accuracy and len(curve[3].draws) == 2
    encoder, pixels = few.rows["encoder"]["linear"], few.rows["pixels"]["linear"]
    assert encoder[48].mean > encoder[3].mean and encoder[48].mean > pixels[48].mean
    for point in encoder.values():
        assert point.low <= point.mean <= point.high
    assert few.to_json()["efficiency"]["helped"] is True


def test_parts_agree_with_the_scores_beside_them(full):
    for name in ("encoder", "pixels", "untrained"):
        found = full.parts["calibration"].rows[name]
        assert found.accuracy == pytest.approx(full.linear[name].accuracy)
    hits = full.parts["retrieval"].rows
    assert (
        hits["encoder"].map > hits["pixels"].map and hits["encoder"].recall[10] >= hits["encoder"].recall[1]
    )
    assert full.parts["clusters"].rows["encoder"].accuracy > 0.6


def test_full_trains_too_and_puts_it_into_the_same_table(run, monkeypatch):
    monkeypatch.setattr(trainer, "MIN_STEPS", 10)
    monkeypatch.setattr(few_labels, "DRAWS", (2, 2))
    monkeypatch.setattr(few_labels, "TRAINED_DRAWS", 1)
    how = {"train": pictures(60, 0), "test": pictures(45, 1), "device": "cpu", "baselines": ()}
    found = evaluate(run, **how, parts="all", transfer=(pictures(60, 2), pictures(30, 3)))
    parts = ["few_labels", "retrieval", "clusters", "calibration", "robustness", "transfer"]
    assert list(found.parts) == parts
    assert list(found.scores["augmented"]) == ["encoder", "chance"]
    assert list(found.scores["svm"]) == ["encoder", "chance"]
    assert list(found.scores["finetune"]) == ["encoder", "scratch", "chance"]
    few = found.parts["few_labels"].rows
    assert few["scratch"]["finetune"].keys() == few["encoder"]["finetune"].keys() >= {3, 12, 60}
    assert few["scratch"]["finetune"][60].mean == found.scores["finetune"]["scratch"].accuracy
    assert found.parts["robustness"].rows["encoder"].clean == found.linear["encoder"].accuracy
    assert found.parts["transfer"].evaluation.images["test"] == 30
    table = found.table()
    for words in ("linear, augmented", "fine-tuned", "from scratch", "training from scratch would need"):
        assert words in table
    plain = json.loads(json.dumps(found.to_json()))
    assert {"augmented", "finetune", "robustness"} <= set(plain)
    assert plain["transfer"]["knn"]["encoder"]["accuracy"] > 0.5
    alone = evaluate(run, **how)
    assert found.knn["encoder"].to_json() == alone.knn["encoder"].to_json()


def test_the_labels_alone_stand_beside_it_where_that_is_no_dearer(run, result, monkeypatch):
    monkeypatch.setattr(trainer, "MIN_STEPS", 10)
    labelled = {"train": pictures(60, 0), "test": pictures(45, 1), "device": "cpu"}
    own = cost("scratch", 60, 12, 8) / (2 * 30) / 0.25  # steps of 30 images, of which two views are seen
    trained = [
        Run(run.path, run.encoder, PREPROCESS, {"steps": math.ceil(own) - less, "batch_size": 30}, {})
        for less in (0, 1)
    ]
    found, short = (evaluate(each, **labelled) for each in trained)
    assert list(found.scores["finetune"]) == ["scratch", "chance"] and not found.left_out
    chosen = found.scores["finetune"]["scratch"].chosen
    assert chosen["steps"] * chosen["batch_size"] == cost("scratch", 60, 12, 8)
    assert found.knn["encoder"].to_json() == short.knn["encoder"].to_json()
    assert "finetune" not in short.scores and "0.25 times" in short.left_out["scratch"]
    assert "add it with --finetune" in short.table() and "from scratch" in found.table()
    assert "not known" in result.to_json()["left_out"]["scratch"]
    both = paired_tests.pair(["a", "b"], [found, short], 0)
    assert {classifier for _, _, classifier, _ in both.pairs} == {"knn", "linear"}


class _Blind(Colour):
    """Sees how bright a picture is and nothing else."""

    def forward(self, x):
        return super().forward(x).mean(dim=1, keepdim=True).expand(-1, 3)


def test_two_runs_are_compared_on_the_same_images(run, tmp_path, result):
    other = Run(tmp_path, _Blind().eval(), PREPROCESS, {}, {})
    both = evaluate(run, other, train=pictures(300, 0), test=pictures(150, 1), device="cpu")
    assert both.evaluations[0].knn["encoder"].to_json() == result.knn["encoder"].to_json()
    plain = json.loads(json.dumps(both.to_json()))
    assert list(plain["runs"]) == [str(run.path), str(tmp_path)]
    assert [pair["classifier"] for pair in plain["pairs"]] == ["knn", "linear"]
    for pair in plain["pairs"]:
        scores = [item[pair["classifier"]]["encoder"]["accuracy"] for item in plain["runs"].values()]
        assert pair["difference"] == pytest.approx(scores[0] - scores[1])
        assert pair["low"] > 0 and pair["p"] < 1e-6
    assert "p (McNemar)" in both.table() and f"{run.path} minus {tmp_path}" in both.table()
    with pytest.raises(NearfarError, match="given twice"):
        evaluate(run, run, train=pictures(30, 0), test=pictures(9, 1), device="cpu")


def test_what_was_found_is_kept_in_the_run_folder(run, result, tmp_path, capsys):
    assert set(checkpoint.read_json(run.path / "evaluation.json")) >= {"knn", "linear", "leaks"}
    gone = Run(tmp_path / "gone", run.encoder, PREPROCESS, {}, {})
    progress.show(True)
    try:
        evaluate(gone, train=pictures(30, 0), test=pictures(9, 1), device="cpu")
    finally:
        progress.show(False)
    assert "evaluation.json is not written" in capsys.readouterr().err


def test_fine_tuning_may_begin_within_the_head(labelled, tmp_path, monkeypatch) -> None:
    """As SimCLR v2 does; the layers are those that `neck_of` cuts off the run's head."""
    trained = models.encoder("resnet8", size=16, stem="standard", seed=1).eval()
    with models.seeded(0, "head"):
        g = models.mlp(trained.dim, 24, 24, 12).eval()
    whole = every_scale.finished(trained)  # its vectors are longer than those that the head was trained on
    (tmp_path / "kept").mkdir()
    export(tmp_path / "kept", whole, Preprocess.of(16), {"source": "a test"}, {"g": g})
    data = {"train": labelled / "train", "test": labelled / "test", "baselines": (), "known": "none"}
    run, seen = load(tmp_path / "kept"), []
    x = torch.rand(5, 3, 16, 16)
    with torch.no_grad():
        assert torch.allclose(with_neck(run, 1)(x), g[:3](trained(x)), atol=1e-6)
    assert with_neck(run, 0) is run.encoder

    def spied(encoder: Any, *words: Any, **how: Any) -> FineTuned:
        seen.append((how["mode"], [type(part).__name__ for part in encoder.children()]))
        return train_classifier(encoder, *words, **{**how, "epochs": 0.2})

    monkeypatch.setattr(measure, "train_classifier", spied)
    monkeypatch.setattr(trainer, "MIN_STEPS", 5)
    found = evaluate(run, parts=("finetune",), from_head=1, **data)
    assert [mode for mode, _ in seen] == ["finetune", "scratch"]
    assert seen[0][1] == ["Encoder", "Neck"] and "Neck" not in seen[1][1]
    assert found.scores["finetune"]["encoder"].chosen["from_head"] == 1
    assert "from_head" not in found.scores["finetune"]["scratch"].chosen
    for parts, layers, says in (
        ((), 1, "add --finetune"),
        (("finetune",), 3, "more than the 2 hidden layers"),
        (("finetune",), -1, "give 0 or more"),
    ):
        with pytest.raises(NearfarError, match=says):
            evaluate(run, parts=parts, from_head=layers, **data)


def test_a_baseline_that_nothing_has_is_refused() -> None:
    with pytest.raises(NearfarError, match="baseline 'pixel' .* is not known; did you mean pixels"):
        evaluate("nowhere", train="a", test="b", baselines=("pixel",))

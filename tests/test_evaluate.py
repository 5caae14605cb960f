"""Evaluation on pictures with known answers: baselines, a test set read once, a frozen encoder."""

import json
import math
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from nearfar import models
from nearfar.core import progress
from nearfar.core.errors import NearfarError
from nearfar.data.source import Source
from nearfar.evaluation import few_labels, measure, paired_tests
from nearfar.evaluation.accuracy import Accuracy
from nearfar.evaluation.evaluate import evaluate
from nearfar.features.probes import untrained
from nearfar.finetuning import trainer
from nearfar.finetuning.classifier import FineTuned, cost, train_classifier
from nearfar.finetuning.neck import with_neck
from nearfar.images.views import Preprocess
from nearfar.models import every_scale
from nearfar.training import checkpoint
from nearfar.training.run import Run, export, load

PREPROCESS = Preprocess.of(8)


class _Colour(models.Encoder):
    """Sees mean colour and nothing else."""

    def __init__(self):
        net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        super().__init__(net, 3, "resnet10_w16", "standard", 8)


def pictures(n, seed):
    """Noise in three colours; the class is the colour, the noise is far stronger in any one pixel."""
    draw = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    pixels = draw.normal(128, 90, (n, 8, 8, 3))
    pixels[np.arange(n), :, :, labels] += 28
    return pixels.clip(0, 255).astype(np.uint8), [("red", "green", "blue")[k] for k in labels]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("run"), _Colour().eval(), PREPROCESS, {}, {})


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


class _Leaky(_Colour):
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


def test_shared_images_are_counted(run):
    pixels, labels = pictures(60, 0)
    found = evaluate(run, train=(pixels, labels), test=(pixels[:9], labels[:9]), device="cpu")
    assert found.images["shared"] == 9 and "warning: 9 test images" in found.table()
    assert found.leaks["near_copies"].without == {} and "no other test image is left" in found.table()


def test_near_copies_are_flagged_and_the_score_without_them_given(run):
    pixels, labels = pictures(120, 0)
    fresh, own = pictures(60, 1)
    lighter = (0.8 * pixels[:20] + 40).astype(np.uint8)
    # Copies with wrong labels: with them the encoder looks worse than it is.
    wrong = [{"red": "green", "green": "blue", "blue": "red"}[name] for name in labels[:20]]
    test = np.concatenate([fresh, lighter]), own + wrong
    found = evaluate(run, train=(pixels, labels), test=test, device="cpu")
    leak = found.leaks["near_copies"]
    assert (leak.images, leak.left, found.images["shared"]) == (20, 60, 0)
    assert {(a, b) for a, b, _ in leak.pairs} == {(str(60 + k), str(k)) for k in range(20)}
    alone = evaluate(run, train=(pixels, labels), test=(fresh, own), device="cpu")
    for classifier in ("knn", "linear"):
        clean = leak.without[classifier]["encoder"]
        assert clean.accuracy == getattr(alone, classifier)["encoder"].accuracy
        assert clean.accuracy > getattr(found, classifier)["encoder"].accuracy
    assert "warning: 20 test images (25.0 %)" in found.table()
    assert alone.leaks["near_copies"].images == 0 and "warning" not in alone.table()


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


class _Blind(_Colour):
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


def test_groups_stay_on_one_side_and_leaks_between_them_are_named(run, tmp_path, capsys):
    lines = ["path,patient"]
    for side, seed in (("train", 0), ("test", 1)):
        for number, (image, name) in enumerate(zip(*pictures(90, seed), strict=True)):
            path = tmp_path / side / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
            # Of the test images the first thirty are of patients in training.
            patient = number // 6 if side == "train" or number < 30 else 100 + number // 6
            lines.append(f"{path.relative_to(tmp_path)},{patient}")
    listed = tmp_path / "patients.csv"
    listed.write_text("\n".join(lines))
    how = {"train": tmp_path / "train", "test": tmp_path / "test", "device": "cpu"}
    found = evaluate(run, **how, groups=listed)
    assert found.images["validation"] % 6 == 0
    assert (found.leaks["groups"].images, found.leaks["groups"].left) == (30, 60)
    assert "warning: 30 test images (33.3 %) belong to groups of training images" in found.table()
    new = np.array([int(Path(name).stem) >= 30 for name in found.ids])
    right = found.answers["linear"]["pixels"] == found.truth
    left = Accuracy.of(right[new], found.groups[new])  # without them too, the interval is over patients
    assert found.leaks["groups"].without["linear"]["pixels"] == left
    assert "p (signs of groups)" in paired_tests.pair(["a", "b"], [found, found], 0).table()
    assert "groups" not in evaluate(run, **how).leaks
    listed.write_text("\n".join(lines[:-1]))
    capsys.readouterr()
    progress.show(True)
    with pytest.raises(NearfarError, match="has no group for"):
        evaluate(run, **how, groups=listed)
    progress.show(False)
    assert "fitting" not in capsys.readouterr().err


def test_labels_that_cannot_be_used_are_named(run):
    pixels, labels = pictures(30, 0)
    with pytest.raises(NearfarError, match="purple"):
        evaluate(run, train=(pixels, labels), test=(pixels[:2], ["red", "purple"]), device="cpu")
    with pytest.raises(NearfarError, match="all of class 'red'"):
        evaluate(run, train=(pixels, ["red"] * 30), test=(pixels[:2], ["red"] * 2), device="cpu")
    with pytest.raises(NearfarError, match="two of one class"):
        evaluate(run, train=(pixels[:3], labels[:3]), test=(pixels[:3], labels[:3]), device="cpu")
    with pytest.raises(NearfarError, match="labels"):
        evaluate(run, train=pixels, test=pixels, device="cpu")


def test_a_second_data_set_that_is_not_there_is_named_before_anything_is_measured(run, tmp_path, capsys):
    how = {"train": pictures(30, 0), "test": pictures(6, 1), "device": "cpu"}
    progress.show(True)
    for second in ((tmp_path / "a", tmp_path / "b"), (pictures(6, 2), pictures(3, 2)[0])):
        with pytest.raises(NearfarError):
            evaluate(run, **how, transfer=second)
    progress.show(False)
    assert "fitting" not in capsys.readouterr().err


def test_a_second_data_set_has_labels_of_its_own(run, tmp_path):
    for name, count, seed in (("a", 30, 0), ("b", 9, 1)):
        for number, (values, label) in enumerate(zip(*pictures(count, seed), strict=True)):
            folder = tmp_path / name / ("all" if name == "a" else f"dark {label}")
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(folder / f"{number}.png")
    # The list is of a; b has files of the same names, other classes, and none of a's folders.
    rows = "".join(f"{number}.png,{label}\n" for number, label in enumerate(pictures(30, 0)[1]))
    (tmp_path / "a.csv").write_text(f"path,label\n{rows}")
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    how = {"labels": tmp_path / "a.csv", "baselines": (), "device": "cpu"}
    found = evaluate(run, train=a, test=a, transfer=(b, b), **how)
    assert found.classes == ("blue", "green", "red")
    second = found.parts["transfer"].evaluation
    assert second.classes == ("dark blue", "dark green", "dark red")


def test_too_many_bad_images_are_named_without_a_flag_that_evaluate_lacks(run, tmp_path):
    pixels, labels = pictures(30, 5)
    for number, (values, label) in enumerate(zip(pixels, labels, strict=True)):
        file = tmp_path / label / f"{number}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(values).save(file)
        if number < 6:
            file.write_bytes(b"no picture")
    with pytest.raises(
        NearfarError, match=r"at least \d of 30 images cannot be used, more than 10%, "
    ) as said:
        evaluate(run, train=tmp_path, test=pictures(9, 6), device="cpu")
    assert "nearfar check" in str(said.value) and "--max-bad" not in str(said.value)


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

"""Evaluation on pictures with known answers: honest baselines, one look at the test set, a frozen encoder."""

import json
import sys
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from nearfar import nets, rng
from nearfar.data.kinds import Source
from nearfar.errors import NearfarError
from nearfar.evaluate import evaluate
from nearfar.readers import held_out, untrained
from nearfar.run import Run
from nearfar.scores import interval, mixed_up, score
from nearfar.views import Preprocess

PREPROCESS = Preprocess.of(8)


class _Colour(nets.Encoder):
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
        assert list(rows) == ["encoder", "pixels", "untrained", "chance"]
        assert rows["encoder"].accuracy > 0.85
        assert rows["chance"].accuracy == pytest.approx(1 / 3)
        assert rows["encoder"].low > max(rows["untrained"].high, rows["chance"].high)
        assert rows["encoder"].accuracy > rows["pixels"].accuracy
    assert result.images == {"train": 300, "held_out": 60, "test": 150, "rejected": 0, "shared": 0}


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


def test_the_table_shows_every_row(result):
    table = result.table()
    for word in ("encoder", "pixels", "untrained", "chance", "k-NN", "linear", "green", "chosen: k"):
        assert word in table
    assert f"{100 * result.knn['encoder'].accuracy:.1f} %" in table


def test_the_same_seed_gives_the_same_figures(run, result):
    again = evaluate(run, train=pictures(300, 0), test=pictures(150, 1), device="cpu", batch=7)
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
    fit = sys.modules["nearfar.readers"].probe.fit

    def noted(*args, **kwargs):
        _Counted.notes.append(("fit", -1))
        return fit(*args, **kwargs)

    monkeypatch.setattr(sys.modules["nearfar.readers"].probe, "fit", noted)
    names = [str(k) for k in range(60)]
    evaluate(run, train=_Counted("train", names, labels), test=_Counted("test", names, labels), device="cpu")
    order = [name for name, _ in _Counted.notes]
    last_fit = len(order) - 1 - order[::-1].index("fit")
    assert order.count("fit") == 3
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


def test_an_encoder_that_changes_voids_the_figures(run):
    leaky = Run(run.path, _Leaky().eval(), PREPROCESS, {}, {})
    with pytest.raises(NearfarError, match="changed while it was evaluated"):
        evaluate(leaky, train=pictures(30, 0), test=pictures(9, 1), device="cpu")


def test_an_untrained_encoder_sees_normalised_channels(run):
    class _Store:
        def __len__(self):
            return 64

        def gather(self, rows):
            from nearfar.data.pack import Block

            full = np.full(len(rows), 8, np.int32)
            return Block(pictures(64, 0)[0].reshape(-1), rows * 192, full, full)

    like = nets.encoder("resnet10_w16", size=8)
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


def test_held_out_images_are_a_fixed_share_of_every_class():
    labels = np.array([0] * 100 + [1] * 10 + [2])
    held = held_out(labels, ("a", "b", "c"), 0)
    assert [int(held[labels == k].sum()) for k in range(3)] == [20, 2, 0]
    assert np.array_equal(held, held_out(labels, ("a", "b", "c"), 0))
    assert not np.array_equal(held, held_out(labels, ("a", "b", "c"), 1))


def test_the_interval_is_the_bootstraps():
    low, high = interval(620, 1000, rng.fold(0, "bootstrap"))
    draw = np.random.default_rng(0)
    hits = np.arange(1000) < 620
    means = [hits[draw.integers(0, 1000, 1000)].mean() for _ in range(1000)]
    assert np.allclose([low, high], np.quantile(means, [0.025, 0.975]), atol=0.006)
    assert interval(10, 10, 1) == (1.0, 1.0) and interval(0, 10, 1) == (0.0, 0.0)


def test_a_score_counts_by_hand():
    found = score(np.array([0, 0, 0, 1]), np.array([0, 1, 1, 1]), ("a", "b", "c"), {}, 0)
    assert found.accuracy == 0.5
    assert found.confusion.tolist() == [[1, 2, 0], [0, 1, 0], [0, 0, 0]]
    a, b, c = found.per_class
    assert (a.recall, a.precision, b.recall, b.precision) == (1 / 3, 1.0, 1.0, 1 / 3)
    assert (c.images, c.recall, c.precision) == (0, None, None)
    assert mixed_up(found) == [("a", "b", 2)]


def test_shared_images_are_counted(run):
    pixels, labels = pictures(60, 0)
    found = evaluate(run, train=(pixels, labels), test=(pixels[:9], labels[:9]), device="cpu")
    assert found.images["shared"] == 9 and "beware: 9 test images" in found.table()


def test_labels_that_cannot_be_used_are_named(run):
    pixels, labels = pictures(30, 0)
    with pytest.raises(NearfarError, match="purple"):
        evaluate(run, train=(pixels, labels), test=(pixels[:2], ["red", "purple"]), device="cpu")
    with pytest.raises(NearfarError, match="one class"):
        evaluate(run, train=(pixels, ["red"] * 30), test=(pixels[:2], ["red"] * 2), device="cpu")
    with pytest.raises(NearfarError, match="two of some class"):
        evaluate(run, train=(pixels[:3], labels[:3]), test=(pixels[:3], labels[:3]), device="cpu")
    with pytest.raises(NearfarError, match="labels"):
        evaluate(run, train=pixels, test=pixels, device="cpu")

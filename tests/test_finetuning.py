"""Fine-tuning on pictures with known answers: what is trained changes, what is frozen does not."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from nearfar import models
from nearfar.core.errors import NearfarError
from nearfar.data import cache
from nearfar.data.dataset import Subset
from nearfar.data.sources import open_source
from nearfar.features import logistic, probes
from nearfar.features.extract import features, fingerprint
from nearfar.finetuning import trainer
from nearfar.finetuning.classifier import train_classifier
from nearfar.finetuning.trainer import RECIPES, Network
from nearfar.images.view_settings import Views
from nearfar.images.views import Preprocess

PREPROCESS = Preprocess.of(8)
PLAIN = Views(crop_min=1.0, flip=0.0, jitter=0.0, grayscale=0.0)


def store(n, seed, classes=3):
    """Noise in as many colours as classes; the class is the colour, the noise far stronger in any pixel."""
    draw = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    pixels = draw.normal(128, 70, (n, 8, 8, 3))
    pixels[np.arange(n), :, :, labels] += 60
    source = open_source((pixels.clip(0, 255).astype(np.uint8), [str(k) for k in labels]), labels=True)
    return cache.load(source, short_side=None, max_pixels=10**6, max_bad=0.0, threads=1)


def none(images):
    return np.zeros(len(images), bool)


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    """The arithmetic is measured elsewhere; here it is to be the same whatever the machine finds."""
    monkeypatch.setattr(trainer, "_precision", lambda *_: "float32")


@pytest.fixture(scope="module")
def encoder():
    return probes.untrained(
        models.encoder("resnet10_w16", size=8, seed=3), store(64, 9), PREPROCESS, seed=3, device="cpu"
    )


@pytest.fixture(scope="module")
def few():
    return store(16, 0, classes=2)


@pytest.mark.parametrize("mode", ["linear", "finetune", "scratch"])
def test_sixteen_images_are_memorised(encoder, few, mode):
    images = Subset(few, np.arange(16))
    made = train_classifier(
        encoder, PREPROCESS, images, none(images), mode=mode, seed=0, device="cpu", views=PLAIN
    )
    assert (made.answer(images) == images.labels).all()
    assert made.chosen["validation"] is None and made.chosen["lr"] == RECIPES[mode].lrs[0]
    assert made.chosen["steps"] == trainer.MIN_STEPS and made.chosen["batch_size"] == 16
    logits = made.logits(images)
    assert logits.shape == (16, 2) and logits.dtype == np.float32
    assert made.answer(images).dtype == np.int64


@pytest.mark.parametrize("mode", ["linear", "finetune", "scratch"])
def test_the_encoder_given_is_never_changed(encoder, few, mode):
    before, modes = fingerprint(encoder), [part.training for part in encoder.modules()]
    made = train_classifier(encoder, PREPROCESS, few, none(few), mode=mode, seed=0, device="cpu", epochs=2)
    assert fingerprint(encoder) == before
    assert [part.training for part in encoder.modules()] == modes
    assert all(weight.requires_grad for weight in encoder.parameters())
    assert (fingerprint(made.net[0]) == before) == (mode == "linear")


def test_a_frozen_encoder_that_moves_is_an_error(encoder, few):
    class Leaky(models.Encoder):
        def forward(self, x):
            with torch.no_grad():
                self.net.conv1.weight += 1e-4
            return super().forward(x)

    leaky = Leaky(copy.deepcopy(encoder.net), encoder.dim, encoder.name, encoder.stem, 8)
    with pytest.raises(NearfarError, match="changed"):
        train_classifier(leaky, PREPROCESS, few, none(few), mode="linear", seed=0, device="cpu", epochs=1)


def test_scratch_is_fine_tuning_from_random_weights(encoder, few):
    start = probes.untrained(encoder, few, PREPROCESS, 5, "cpu")
    made = [
        train_classifier(net, PREPROCESS, few, none(few), mode=mode, seed=5, device="cpu", epochs=3)
        for net, mode in ((encoder, "scratch"), (start, "finetune"))
    ]
    assert fingerprint(made[0].net) == fingerprint(made[1].net)
    other = train_classifier(
        encoder, PREPROCESS, few, none(few), mode="finetune", seed=5, device="cpu", epochs=3
    )
    assert fingerprint(other.net) != fingerprint(made[1].net)


def test_the_same_seed_gives_the_same_network_on_any_number_of_threads(encoder, few, monkeypatch):
    def made(seed, threads):
        monkeypatch.setattr(trainer, "cores", lambda: threads)
        return train_classifier(
            encoder, PREPROCESS, few, none(few), mode="finetune", seed=seed, device="cpu", epochs=3
        )

    first = fingerprint(made(0, 1).net)
    assert fingerprint(made(0, 3).net) == first
    assert fingerprint(made(1, 1).net) != first


def test_without_augmentation_the_layer_agrees_with_logistic_regression(encoder):
    train, test = store(240, 1), store(240, 2)
    validation = probes.validation_split(train.labels, train.classes, 0)
    made = train_classifier(
        encoder, PREPROCESS, train, validation, mode="linear", seed=0, device="cpu", epochs=60, views=PLAIN
    )
    x = torch.from_numpy(features(encoder, train, PREPROCESS))
    fitted = logistic.fit(x, torch.from_numpy(train.labels), 3, 0.1)
    lines = fitted.predict(torch.from_numpy(features(encoder, test, PREPROCESS))).numpy()
    ours, theirs = (made.answer(test) == test.labels).mean(), (lines == test.labels).mean()
    assert theirs > 0.6
    assert abs(ours - theirs) < 0.06


def test_the_learning_rate_is_the_best_on_validation_images(encoder, monkeypatch):
    images = store(300, 1)
    validation = probes.validation_split(images.labels, images.classes, 0)
    assert validation.sum() >= 50
    # With a learning rate of 0 nothing changes.
    recipe = trainer.TrainRecipe("", (0.0, 0.1), views=1, max_epochs=40, min_epochs=40)
    monkeypatch.setitem(RECIPES, "linear", recipe)
    made = train_classifier(
        encoder, PREPROCESS, images, validation, mode="linear", seed=0, device="cpu", views=PLAIN
    )
    assert made.chosen["lr"] == 0.1 and made.chosen["validation"] > 0.5
    assert made.chosen["epochs"] == 200 / 2  # all 300 images in batches of 150


def test_layers_side_by_side_learn_as_each_would_alone(encoder):
    images = store(60, 1)
    tuner = trainer.FineTuner(
        encoder, PREPROCESS, images, mode="linear", seed=0, device=torch.device("cpu"), epochs=4, views=PLAIN
    )
    rows = np.arange(60)
    both, _ = tuner.train(rows, [0.1, 0.02])
    alone = [tuner.train(rows, [lr])[0] for lr in (0.1, 0.02)]
    torch.testing.assert_close(both[1].weight, torch.cat([net[1].weight for net in alone]))
    assert not torch.equal(alone[0][1].weight, alone[1][1].weight)


def test_the_scaling_folds_into_the_layer(encoder):
    start = np.random.default_rng(0).normal(5, 3, (32, encoder.dim)).astype(np.float32)
    network = Network(copy.deepcopy(encoder), start, 3, 1, frozen=True).eval()
    nn.init.normal_(network.layers[0].weight)
    x = torch.rand(4, 3, 8, 8)
    with torch.no_grad():
        scaled = (network.f(x) - network.mean) * network.scale
        torch.testing.assert_close(network.plain()(x), network.layers[0](scaled), rtol=1e-4, atol=1e-4)
    sent = (torch.from_numpy(start) - network.mean) * network.scale
    assert float(sent.square().sum(1).mean().sqrt()) == pytest.approx(trainer.INPUT_NORM)


def test_a_start_without_any_spread_is_no_division_by_zero(encoder, few):
    class Blind(models.Encoder):
        def forward(self, x):
            return super().forward(x) * 0

    blind = Blind(copy.deepcopy(encoder.net), encoder.dim, encoder.name, encoder.stem, 8)
    made = train_classifier(blind, PREPROCESS, few, none(few), mode="linear", seed=0, device="cpu", epochs=1)
    assert np.isfinite(made.logits(few)).all()


@pytest.mark.parametrize("labels", [["a", "b"], ["a", "a", "b", "c"]])
def test_one_label_a_class_is_enough(encoder, labels):
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 8, 8, 3), dtype=np.uint8)
    images = cache.load(
        open_source((pixels, labels), labels=True), short_side=None, max_pixels=10**6, max_bad=0.0, threads=1
    )
    for mode in ("linear", "finetune", "scratch"):
        made = train_classifier(
            encoder, PREPROCESS, images, none(images), mode=mode, seed=0, device="cpu", epochs=5
        )
        assert np.isfinite(made.logits(images)).all()


def test_one_class_is_refused(encoder):
    images = store(4, 0, classes=1)
    with pytest.raises(NearfarError, match="two classes"):
        train_classifier(encoder, PREPROCESS, images, none(images), mode="linear", seed=0, device="cpu")


def test_the_length_follows_the_number_of_images():
    recipe = RECIPES["finetune"]
    assert recipe.epochs(10) == 60
    assert recipe.epochs(20_000) == 25
    assert recipe.epochs(1_000_000) == 10


def test_a_random_start_keeps_the_momentum_of_its_batch_norms(encoder):
    norms = [part for part in encoder.modules() if isinstance(part, nn.BatchNorm2d)]
    assert norms and all(norm.momentum == 0.1 for norm in norms)

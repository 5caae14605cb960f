"""Several encoders as one: its vectors are theirs, one after the other, each of length 1."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from conftest import known_vit
from PIL import Image

import nearfar
from nearfar import models
from nearfar.core.errors import NearfarError
from nearfar.data.labels import open_labelled
from nearfar.evaluation import labelled_data
from nearfar.evaluation.evaluate import evaluate
from nearfar.features.extract import features
from nearfar.images.views import Preprocess
from nearfar.models.combined import Combined
from nearfar.training.run import Run, export, load

FACTS = {"nearfar": "0", "method": "simclr"}


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a small random vision transformer that sees 48 of 50 px, from a file."""
    return known_vit(tmp_path_factory.mktemp("weights"), 48)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run of images of 16 px."""
    return kept(tmp_path / "run", Preprocess.of(16))


def kept(folder: Path, how: Preprocess, seed: int = 0) -> Run:
    """A run with random weights in a folder."""
    folder.mkdir()
    export(folder, models.encoder("resnet10_w16", size=how.size, seed=seed).eval(), how, FACTS)
    return load(folder)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A photograph that is not square."""
    noise = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    Image.fromarray(noise).resize((120, 90), Image.Resampling.BICUBIC).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def unit(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Rows of length 1."""
    found: npt.NDArray[np.float32] = x / np.linalg.norm(x, axis=-1, keepdims=True)
    return found


def test_its_vectors_are_theirs_one_after_the_other(run: Run, vit: str, photo: Path, tmp_path: Path) -> None:
    both = nearfar.combine(vit, run, out=tmp_path / "both")
    large = load(vit)
    short = round(large.preprocess.size / large.preprocess.crop)
    assert short > large.preprocess.size  # the transformer sees the centre only, the run the whole square
    assert both.preprocess == Preprocess(short, 1.0, large.preprocess.interpolation, short)
    found, own = both.encode(photo), unit(large.encode(photo))
    assert found.shape == (large.encoder.dim + run.encoder.dim,)
    assert np.abs(found[: len(own)] * 2**0.5 - own).max() < 1e-5
    # The smaller one sees the larger one's picture, reduced once more.
    x = torch.rand(2, 3, short, short, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        seen = F.interpolate(x, (16, 16), mode="bilinear", antialias=True)
        second = both.encoder(x)[:, len(own) :]
        assert torch.allclose(second * 2**0.5, F.normalize(run.encoder(seen), dim=1), atol=1e-5)
        assert torch.allclose(both.encoder(x).norm(dim=1), torch.ones(2))


def test_it_says_what_it_is_made_of_and_is_combined_again_part_by_part(
    run: Run, vit: str, tmp_path: Path
) -> None:
    both = nearfar.combine(vit, run, out=tmp_path / "both")
    third = kept(tmp_path / "third", Preprocess.of(24), seed=1)
    three = nearfar.combine(both, third, out=tmp_path / "three")
    assert isinstance(three.encoder.net, Combined) and len(three.encoder.net.parts) == 3
    assert [item["name"] for item in three.provenance["of"]] == [vit, str(run.path), str(third.path)]
    licence = load(vit).facts()["licence"]
    assert three.facts()["licence"] == f"{licence} and yours"
    counts = [sum(p.numel() for p in load(item).encoder.parameters()) for item in (vit, run, third)]
    assert three.facts()["parameters"] == sum(counts)


def test_what_does_not_fit_together_is_refused(run: Run, vit: str, tmp_path: Path) -> None:
    out: Any = {"out": tmp_path / "both"}
    with pytest.raises(NearfarError, match="combined with another one; name two"):
        nearfar.combine(run, **out)
    with pytest.raises(NearfarError, match="the same encoder is given twice"):
        nearfar.combine(vit, run, vit, **out)
    ranged = kept(tmp_path / "ranged", Preprocess(16, 1.0, "bilinear", low=0, high=4095))
    with pytest.raises(NearfarError, match="more than 8 bits in different ways"):
        nearfar.combine(run, ranged, **out)
    assert not (tmp_path / "both").exists()
    with pytest.raises(NearfarError, match="is not empty; choose another folder"):
        nearfar.combine(vit, run, out=tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [{"short": 0}, {"size": 40, "short": 20}, {"short": 1 << 30}, {"name": "none"}, {"args": 3}, None],
)
def test_a_damaged_description_is_a_sentence(run: Run, vit: str, tmp_path: Path, wrong: Any) -> None:
    card = nearfar.combine(vit, run, out=tmp_path / "both").folder / "encoder.json"
    held = json.loads(card.read_text())
    parts = held["encoder"]["args"]["parts"]
    parts[1] = {} if wrong is None else {**parts[1], **wrong}
    card.write_text(json.dumps(held))
    with pytest.raises(NearfarError, match=r"encoder.json names no network|encoder 'none' is not known"):
        load(tmp_path / "both")


def test_timm_and_transformers_hold_one_network(run: Run, vit: str, tmp_path: Path) -> None:
    both = nearfar.combine(vit, run, out=tmp_path / "both")
    for to in ("timm", "transformers"):
        with pytest.raises(NearfarError, match="consists of several networks; use --to onnx or --to torch"):
            nearfar.export(both.folder, to=to, out=tmp_path / to)


def test_an_evaluation_tells_what_both_together_give(run: Run, labelled: Path, vit: str) -> None:
    train, test = labelled / "train", labelled / "test"
    found = evaluate(run, known=vit, train=train, test=test, baselines=("pixels",))
    score = found.knn["combined"]

    def vectors(folder: Path) -> npt.NDArray[np.float32]:
        made = []
        for one in (run, load(vit)):
            images = labelled_data.read(open_labelled(folder, "images"), one.preprocess)
            made.append(unit(features(one.encoder, images, one.preprocess)))
        return np.concatenate(made, 1) / 2**0.5

    names = [file.parent.name for file in sorted(train.rglob("*.png"))]
    near = vectors(test) @ vectors(train).T
    for own, answer in zip(near, found.answers["knn"]["combined"], strict=True):
        votes = dict.fromkeys(found.classes, 0.0)
        for at in np.argsort(-own)[: score.chosen["k"]]:
            votes[names[at]] += np.exp(own[at] / score.chosen["temperature"])
        assert votes[found.classes[answer]] == pytest.approx(max(votes.values()), rel=1e-3)
    assert "both together" in found.table()
    assert "combined" not in {item.baseline for item in found.summary()["knn"].comparisons}
    # Together with a part of itself nothing is asked.
    both = nearfar.combine(vit, run, out=run.folder.parent / "both")
    assert "combined" not in evaluate(both, known=vit, train=train, test=test, baselines=()).knn

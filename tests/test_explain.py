"""What features see: planted evidence is found, known invariances measured, planted directions learnt."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import picture
from PIL import Image
from torch import nn

import nearfar
from nearfar import models
from nearfar.cli.main import main
from nearfar.core.errors import NearfarError
from nearfar.features.knn import unit
from nearfar.interpretation import attribution, dictionary, explain, invariance

MARGIN = 0.2  # by which deletion of planted evidence must beat random orders


class Colours(nn.Module):
    """Counts, softly, the red, green and blue pixels of an image: its evidence is known."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 3, side, side) -> (n, 3)."""
        return torch.sigmoid(20 * (x - x.mean(1, keepdim=True) - 0.3)).mean((2, 3))


def spots(places: list[tuple[int, int]], channel: int, side: int = 32) -> torch.Tensor:
    """Grey noise with a spot of one colour, 8 px wide, at a place of each image."""
    x = torch.rand(len(places), 1, side, side, generator=torch.Generator().manual_seed(0))
    x = (0.3 + 0.4 * x).repeat(1, 3, 1, 1)
    for image, (top, left) in zip(x, places, strict=True):
        image[:, top : top + 8, left : left + 8] = 0.0
        image[channel, top : top + 8, left : left + 8] = 1.0
    return x


PLACES = [(0, 0), (8, 16), (20, 4), (24, 24), (12, 12), (0, 20)]


def evidence() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images with a red spot, what each is similar to (another place's), and a centre between colours."""
    red, blue = spots(PLACES, 0), spots(PLACES, 2)
    h = Colours()(torch.cat([red, blue]))
    centre = h.mean(0)
    return red, (h[: len(red)] - centre).roll(1, 0), centre


def test_attribution_lies_on_the_planted_evidence() -> None:
    x, towards, centre = evidence()
    scores = attribution.attribute(Colours(), x, towards, centre)
    assert scores.shape == (len(x), 8, 8)
    for cells, (top, left) in zip(scores, PLACES, strict=True):
        inside = torch.zeros(8, 8, dtype=torch.bool)
        inside[top // 4 : (top + 11) // 4, left // 4 : (left + 11) // 4] = True
        assert cells[inside].sum() > 0.9 * cells.sum() > 0
    # The cells add up to what the blurred images lack (the gradient's own theorem; eight steps err a little).
    lacking = attribution.deletion(Colours(), x, towards, centre, scores)
    assert torch.allclose(scores.sum((1, 2)), lacking[:, 0] - lacking[:, -1], atol=0.25)


def test_deletion_tells_found_parts_from_random_ones() -> None:
    x, towards, centre = evidence()
    scores = attribution.attribute(Colours(), x, towards, centre)
    found = attribution.check(Colours(), x, towards, centre, scores)
    assert found.margin > MARGIN and found.better == len(x) == found.images
    assert found.own[0] == pytest.approx(found.random[0]) and found.own[-1] == pytest.approx(found.random[-1])
    by_chance = torch.rand(scores.shape, generator=torch.Generator().manual_seed(1))
    assert abs(attribution.check(Colours(), x, towards, centre, by_chance).margin) < MARGIN / 2
    assert attribution.check(Colours(), x, towards, centre, -scores).margin < 0
    assert attribution.joined([found, found]).margin == pytest.approx(found.margin)


@pytest.mark.parametrize(
    ("name", "side", "cells", "args"),
    [("vit_w64_d2", 32, 8, None), ("timm:vit_tiny_patch16_224", 64, 4, {"depth": 1})],
)
def test_a_transformers_cells_are_its_patches(
    name: str, side: int, cells: int, args: dict[str, int] | None
) -> None:
    encoder = models.encoder(name, size=side, args=args).eval()
    x, other = (F.interpolate(spots(PLACES, channel), side) for channel in (0, 2))
    teach = torch.optim.Adam(encoder.parameters(), 1e-3)
    for _ in range(10):  # red spots from blue ones
        h = encoder(torch.cat([x, other]))[:, 0]
        F.softplus(torch.cat([-h[: len(x)], h[len(x) :]])).mean().backward()
        teach.step()
        teach.zero_grad()
    h = encoder.requires_grad_(False)(torch.cat([x, other]))
    centre, towards = h.mean(0), (h[: len(x)] - h.mean(0)).roll(1, 0)
    scores = attribution.attribute(encoder, x, towards, centre)
    assert scores.shape == (len(x), cells, cells)
    found = attribution.check(encoder, x, towards, centre, scores)
    assert found.margin > 0.05 and found.better == len(x)
    # What a patch's pixels add is what its token adds: the same sum over the numbers of the first tokens.
    embed = next(part for part in encoder.modules() if isinstance(part, nn.Conv2d))
    held: list[torch.Tensor] = []

    def hold(_module: nn.Module, _given: object, made: torch.Tensor) -> torch.Tensor:
        held.append(made.detach().requires_grad_())
        return held[-1]

    hook = embed.register_forward_hook(hold)
    start, total = invariance.blurred(x, attribution.BLUR), torch.zeros_like(scores)
    ends = [(encoder(one), held[-1].detach())[1] for one in (start, x)]
    for step in range(attribution.STEPS):
        at = start + (step + 0.5) / attribution.STEPS * (x - start)
        cosine = (unit(encoder(at) - centre) * unit(towards)).sum()
        (gradient,) = torch.autograd.grad(cosine, held[-1])
        total += (gradient * (ends[1] - ends[0])).sum(1) / attribution.STEPS
    hook.remove()
    assert torch.allclose(total, scores, atol=1e-4)


def test_other_encoders_have_cells_of_their_own() -> None:
    assert attribution.grid(Colours(), 32) == attribution.grid(models.encoder("resnet10_w16"), 64) == 8
    assert attribution.grid(Colours(), 4) == 4
    vit = models.encoder("vit_w64_d2", size=32)
    assert [attribution.grid(vit, side) for side in (8, 16, 34, 64, 80)] == [8, 4, 8, 16, 8]


def test_invariances_of_known_encoders() -> None:
    images = np.stack([picture(number, 32, kind=number % 4) for number in range(12)])
    x = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    by_colour = {curve.change: curve for curve in invariance.curves(lambda x: x.mean((2, 3)), x)}
    assert list(by_colour) == list(invariance.CHANGES)
    for curve in by_colour.values():
        assert curve.kept[0] == pytest.approx(1, abs=1e-4) and curve.found[0] == 1
    assert by_colour["turn"].kept[-1] == pytest.approx(1, abs=1e-3)  # half a turn moves no colour
    assert by_colour["blur"].kept[-1] > 0.98 > 0.5 > by_colour["colour"].kept[-1]
    by_place = {curve.change: curve for curve in invariance.curves(lambda x: x.flatten(1), x)}
    assert by_place["turn"].kept[-1] < 0.9 and by_place["place"].kept[-1] < 0.9


def test_changes_do_what_they_say() -> None:
    x = torch.rand(2, 3, 16, 16)
    assert torch.allclose(invariance.turned(x, 180), x.flip(2, 3), atol=1e-4)
    assert torch.allclose(invariance.moved(x, 0.25)[:, :, 4:, 4:], x[:, :, :12, :12], atol=1e-4)
    assert torch.allclose(invariance.enlarged(x, 1), x, atol=1e-5)
    flat = torch.full((1, 3, 16, 16), 0.3)
    assert torch.allclose(invariance.blurred(flat, 1 / 6), flat, atol=1e-5)
    red = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    assert torch.allclose(invariance.turn_hue(red, 1 / 3)[0, :, 0, 0], torch.tensor([0.0, 1, 0]), atol=1e-5)


def planted(n: int = 1200, size: int = 12, dims: int = 24) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Vectors that are sums of two of some directions; the label is the stronger of the two."""
    draw = np.random.default_rng(0)
    directions = unit(torch.from_numpy(draw.standard_normal((size, dims)).astype(np.float32)))
    pairs = np.stack([draw.permutation(size)[:2] for _ in range(n)])
    weights = np.stack([draw.uniform(1, 1.5, n), draw.uniform(0.5, 0.8, n)], 1).astype(np.float32)
    vectors = sum(directions[pairs[:, k]] * torch.from_numpy(weights[:, k : k + 1]) for k in range(2))
    noise = 0.01 * torch.from_numpy(draw.standard_normal((n, dims)).astype(np.float32))
    return vectors + noise, directions, [f"kind{first}" for first in pairs[:, 0]]


def test_planted_directions_are_learnt_and_named() -> None:
    vectors, directions, labels = planted()
    found = explain.sparse(vectors, labels, size=12, active=2, steps=500)
    assert found.explained > 0.9 > found.principal
    assert found.agreement is not None and found.numbers is not None and found.chance is not None
    assert found.agreement > 0.9 > 0.85 > found.numbers
    made = dictionary.fit(vectors, size=12, active=2, steps=500)
    assert int((made.encode(vectors) > 0).sum(1).max()) <= 2
    assert ((made.directions @ directions.T).amax(0) > 0.9).sum() >= 9
    again = dictionary.fit(vectors, size=16, active=2, steps=20)
    assert torch.equal(again.directions, dictionary.fit(vectors, size=16, active=2, steps=20).directions)


def test_a_name_is_tested_on_images_that_it_was_not_chosen_by() -> None:
    activations = torch.linspace(1, 0.1, 10)[:, None]
    (one,) = dictionary.describe(activations, ["cat", "dog"] * 5)
    assert one.name == "cat" and one.share == 0  # every second image, which chose it, is a cat
    assert one.top == tuple(range(10)) and one.used == 1
    assert dictionary.describe(activations)[0].share is None and dictionary.agreement([]) is None


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> nearfar.training.run.Run:
    out = tmp_path_factory.mktemp("explain") / "run"
    return nearfar.pretrain(
        photos, out=out, steps=2, batch_size=16, encoder="resnet10_w16", health_checks=0, device="cpu"
    )


def test_the_command(
    run: nearfar.training.run.Run, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "sheet.png"
    pair = ["angle0/000.png", "angle1/003.png"]
    words = ["explain", str(run.path), str(labelled / "test"), "--labels", "--out", str(sheet)]
    assert main([*words, "--json", "--pair", *pair]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["images"] == 60 and found["pairs"][0]["images"] == pair
    assert np.shape(found["pairs"][0]["cells"]) == (2, 8, 8)
    assert [curve["change"] for curve in found["invariance"]] == list(invariance.CHANGES)
    assert found["dictionary"]["chance"] == 0.25 and found["dictionary"]["list"]
    assert {one["name"] for one in found["dictionary"]["list"]} <= {f"angle{k}" for k in range(4)}
    with Image.open(sheet) as image:
        assert image.format == "PNG" and image.width > 900 and np.asarray(image).std() > 10
    plain = nearfar.explain(run, labelled / "test")
    assert plain.path is None and "margin" in str(plain) and plain.sparse.agreement is None
    assert all(weight.requires_grad for weight in run.encoder.parameters())


def test_mistakes_are_sentences(run: nearfar.training.run.Run, labelled: Path, tmp_path: Path) -> None:
    test = labelled / "test"
    with pytest.raises(NearfarError, match=r"is no \.png file"):
        nearfar.explain(run, test, out=tmp_path / "sheet.txt")
    with pytest.raises(NearfarError, match="has no image 'angle0/nothing.png'"):
        nearfar.explain(run, test, pair=["angle0/000.png", "angle0/nothing.png"])
    with pytest.raises(NearfarError, match="give two"):
        nearfar.explain(run, test, pair=["angle0/000.png"])
    with pytest.raises(NearfarError, match="twice"):
        nearfar.explain(run, test, pair=["angle0/000.png", "angle0/000.png"])
    with pytest.raises(NearfarError, match="needs 16 or more"):
        nearfar.explain(run, test / "angle0")


def test_images_of_one_vector_are_refused(run: nearfar.training.run.Run, tmp_path: Path) -> None:
    for number in range(16):
        Image.fromarray(picture(3)).save(tmp_path / f"{number}.png")
    with pytest.raises(NearfarError, match="the vectors of all 16 images are the same"):
        nearfar.explain(run, tmp_path)


def test_shares_of_vectors_that_do_not_vary_are_numbers() -> None:
    generator = torch.Generator().manual_seed(0)
    kept, held = torch.randn(40, 6, generator=generator), torch.ones(4, 6)
    assert dictionary.fit(kept, size=8, active=2, steps=20).explained(held) == 0
    assert dictionary.principal(kept, held, 2) == 0
    assert dictionary.differ(kept) and not dictionary.differ(held * (1 + 1e-7 * torch.randn(4, 1)))

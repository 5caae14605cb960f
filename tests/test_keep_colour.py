"""SimCLR that keeps the colours of every fourth image: which ones, how they look, how they are compared."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small import pictures, small

from nearfar import methods
from nearfar.data import cache
from nearfar.data.batch import ALTERNATES
from nearfar.data.loader import DataLoader
from nearfar.data.sources import open_source
from nearfar.images import views as views_module
from nearfar.images.view_settings import Views
from nearfar.losses import nt_xent
from nearfar.methods.base import Batch
from nearfar.training import grad_cache
from nearfar.training.plan import fit_batch
from nearfar.training.replicas import Replicas
from nearfar.training.resolve import resolve

CPU = torch.device("cpu")
FLAT = Views(brightness=0.0, contrast=0.0, jitter=1.0, hue=0.4, grayscale=0.5)


def coloured(count: int, side: int = 16) -> Batch:
    """A batch in which every fourth image is marked."""
    return replace(pictures(count, side), alternates=torch.arange(count) % 4 == 3)


def test_every_other_image_keeps_its_colour_in_both_views(tmp_path: Path) -> None:
    for number in range(16):
        Image.new("RGB", (24, 24), (200, 120, 40)).save(tmp_path / f"{number:02}.png")
    images = cache.load(open_source(tmp_path), short_side=None, max_pixels=10**6, max_bad=0.0, threads=1)
    method = small("simclr", keep_colour=True)
    feed = DataLoader(images, method.views(FLAT), size=16, batch_size=16, seed=0)
    batch = feed.make(0)
    assert batch.alternates is not None and batch.alternates.tolist() == [False, False, False, True] * 4
    wanted = torch.tensor([200, 120, 40]) / 255
    for view in batch.views:
        away = (view.mean((2, 3)) - wanted).abs().amax(dim=1)
        assert (away[3::4] < 0.06).all()  # a little saturation is all that changes
        assert (away[0::4] > 0.06).sum() >= 2  # some are hardly turned, by chance
    plain = DataLoader(images, small("simclr").views(FLAT), size=16, batch_size=16, seed=0).make(0)
    assert plain.alternates is None
    assert torch.equal(plain.views[0][0::4], batch.views[0][0::4])  # the others are what they were
    boxes = [views_module.draw(s, 7, np.arange(8), [20] * 8, [30] * 8, 16) for s in (Views(), FLAT)]
    mixed = boxes[0].mixed(boxes[1], ALTERNATES)
    assert (mixed.factors[3::4] == boxes[1].factors[3::4]).all()
    assert (mixed.factors[0::4] == boxes[0].factors[0::4]).all()


def test_both_kinds_are_compared_apart_by_heads_of_their_own() -> None:
    method, batch = small("simclr", keep_colour=True).double(), coloured(8)
    batch = replace(batch, views=[view.double() for view in batch.views])
    found = method(batch)
    h = method.f(torch.cat(batch.views))
    z, colour = (torch.nn.functional.normalize(g(h), dim=1).chunk(2) for g in (method.g, method.g_colour))
    kept = batch.alternates
    assert kept is not None
    shape = 0.75 * nt_xent(z[0][~kept], z[1][~kept], method.tau)
    other = 0.25 * nt_xent(colour[0][kept], colour[1][kept], method.tau)
    torch.testing.assert_close(found.terms["nt_xent"], shape)
    torch.testing.assert_close(found.terms["nt_xent_colour"], other)
    found.total.backward()
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0 for p in method.g_colour.parameters() if p.ndim > 1
    )
    assert method.negatives(8) == 10 and small("simclr").negatives(8) == 14
    assert (
        len(method.float().embed(pictures(8))) == 2
    )  # without marks, as in a health check, it is plain SimCLR


def test_in_chunks_the_gradient_is_the_same() -> None:
    def grads(chunk: int | None) -> list[torch.Tensor]:
        method = (
            small("simclr", keep_colour=True).double().eval()
        )  # batch norm counts over a chunk in training
        batch = coloured(8)
        batch = replace(batch, views=[view.double() for view in batch.views])
        if chunk is None:
            method(batch).total.backward()
        else:
            grad_cache.backward(Replicas(method, 1), batch, chunk, contextlib.nullcontext)
        return [p.grad for p in method.parameters() if p.grad is not None]

    for whole, pieces in zip(grads(None), grads(3), strict=True):
        torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"keep_colour": True}, True),
        ({"keep_colour": True, "hue": 0.0, "grayscale": 0.0, "saturation": 0.1}, False),
        ({"keep_colour": True, "grayscale": 0.0}, True),
        ({"keep_colour": False}, False),
    ],
)
def test_it_is_off_where_all_views_keep_their_colours(given: dict[str, float], kept: bool) -> None:
    made = resolve("simclr", "cifar-short", given, side=32, device=CPU)
    assert made.settings.keep_colour is kept


@pytest.mark.parametrize(("batch", "kept"), [(4, False), (7, False), (8, True), (16, True)])
def test_it_is_off_where_a_batch_has_no_two_images_to_compare(batch: int, kept: bool) -> None:
    made = resolve("simclr", "cifar-short", {"keep_colour": True, "batch_size": batch}, side=32, device=CPU)
    fitted, notes = fit_batch(made, 40)
    assert fitted.settings.keep_colour is kept
    assert any("no image keeps its colours" in note for note in notes) is not kept


def test_other_kinds_of_data_have_no_colours() -> None:
    config = methods.settings("simclr")(keep_colour=True)
    assert methods.method("simclr").fitted(config, object()).keep_colour is False

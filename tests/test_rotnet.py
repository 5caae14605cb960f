"""What makes RotNet itself: one view, four turns, and a verdict on its own task."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small import given, small

import nearfar
from nearfar.training.monitor import describe

pytestmark = pytest.mark.usefixtures("whole_looks")

TINY = {"method": "rotnet", "encoder": "resnet10_w16", "precision": "float32", "workers": 1, "device": "cpu"}


def test_every_image_is_turned_four_ways() -> None:
    module, seen = small("rotnet"), []
    module.f.register_forward_pre_hook(lambda _, words: seen.append(words[0]))
    batch = given(module, 3)
    (logits,) = module.embed(batch)
    assert logits.shape == (3, 4, 4) and len(batch.views) == 1
    for r, turned in enumerate(seen[0].chunk(4)):
        assert torch.equal(turned, torch.rot90(batch.views[0], r, (2, 3)))
    again = module.g(module.f(seen[0])).unflatten(0, (4, 3))
    torch.testing.assert_close(logits, again.transpose(0, 1))


def test_accuracy_is_the_share_of_turns_that_were_told() -> None:
    module = small("rotnet")
    logits = torch.zeros(5, 4, 4)
    logits[:, torch.arange(4), torch.arange(4)] = 9.0  # all told,
    logits[0, 1] = logits[0, 2]  # but one
    found = module.loss(logits)
    assert module.metrics(found.watched)["turn_accuracy"].item() == pytest.approx(19 / 20)


@pytest.mark.parametrize(("marked", "name"), [(False, "not learning"), (True, "task too easy")])
def test_a_run_is_judged_by_the_turns_it_tells_on_held_out_images(
    marked: bool, name: str, tmp_path: Path
) -> None:
    """Noise has no upright; a bright line along one edge gives every turn away."""
    pixels = np.random.default_rng(0).integers(0, 200, (400, 16, 16, 3), np.uint8)
    if marked:
        pixels[:, :5] = 255
    words = {"steps": 100, "batch_size": 32, "holdout": 0.3, "crop_min": 0.8, "minutes": None}
    run = nearfar.pretrain(pixels, out=tmp_path / "run", **{**TINY, **words})
    first, last = run.health()[0], run.health()[-1]
    assert "task" not in first and set(last["task"]) == {"trained", "held", "images", "compared"}
    assert (last["task"]["held"] > 0.99) == marked and f"{last['task']['held']:.0%}" in describe(last)
    if not marked:
        assert abs(last["task"]["held"] - 0.25) < 0.12
    found = run.verdict()
    assert found is not None and found.bad and found.name == name
    assert "partner" not in str(found) and run.to_json()["verdict"]["name"] == name

"""What makes CutPaste itself: patches copied from the image, of the sizes of the paper, and nothing else."""

from __future__ import annotations

import pytest
import torch
from small import given, small

from nearfar.methods.cutpaste import AREA, BRIGHTNESS, paste


def drawn(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 8, generator=torch.Generator().manual_seed(seed))


def test_a_patch_is_a_copy_of_another_place() -> None:
    u = drawn(40)
    u[:, 7] = 0.5  # as light as it was
    x = torch.rand(40, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    found = paste(x, u, scar=False)
    for one, new in zip(x, found, strict=True):
        changed = (one != new).any(0)
        rows, columns = changed.any(1).nonzero()[:, 0], changed.any(0).nonzero()[:, 0]
        top, left = int(rows.min()), int(columns.min())
        tall, wide = int(rows.max()) + 1 - top, int(columns.max()) + 1 - left
        assert 0.5 * AREA[0] < tall * wide / (32 * 48) < 1.4 * AREA[1]
        patch = new[:, top : top + tall, left : left + wide]
        taken = one.unfold(1, tall, 1).unfold(2, wide, 1)  # every patch of that size
        assert bool((taken == patch[:, None, None]).all(-1).all(-1).all(0).any())


def test_a_scar_is_small_and_turned() -> None:
    x = torch.rand(30, 3, 128, 128, generator=torch.Generator().manual_seed(2))
    changed = (paste(x, drawn(30, 3), scar=True) != x).any(1)
    share = changed.flatten(1).float().mean(1)
    assert (share > 0).all() and share.max() < 1.3 * (16 / 256) * (25 / 256)
    u = drawn(1, 4)
    u[:, 0], u[:, 1], u[:, 2:6] = 0.0, 1.0, 0.5  # the narrowest and longest, taken from where it is put
    u[:, 3] = 0.0  # but from the left edge
    ramp = (torch.arange(128.0) / 128).expand(1, 3, 128, 128)
    spans = []
    for turn in (0.5, 0.999):  # not at all, and by nearly 45 degrees
        u[:, 6] = turn
        spans.append(int(((paste(ramp, u, scar=True) - ramp).abs().amax((0, 1)) > 0.1).any(0).sum()))
    assert spans[0] <= 2 and spans[1] > 4


def test_light_changes_little_and_stays_in_range() -> None:
    x = torch.full((20, 3, 16, 16), 0.9)
    found = paste(x, drawn(20, 5), scar=False)
    assert found.max() <= 1 and found.min() >= 0.9 * (1 - BRIGHTNESS) - 1e-6


def test_three_versions_are_told_apart() -> None:
    module, seen = small("cutpaste"), []
    module.f.register_forward_pre_hook(lambda _, words: seen.append(words[0]))
    batch = given(module, 3)
    (logits,) = module.embed(batch)
    assert logits.shape == (3, 3, 3) and len(batch.views) == 1
    first, pasted, scar = seen[0].chunk(3)
    assert torch.equal(first, batch.views[0])
    assert (pasted != first).flatten(1).any(1).all() and not torch.equal(pasted, scar)
    module.embed(batch)
    assert torch.equal(seen[0], seen[1])  # the same step gives the same patches
    logits = torch.zeros(4, 3, 3)
    logits[:, torch.arange(3), torch.arange(3)] = 9.0
    logits[0, 1] = logits[0, 2]
    found = module.loss(logits)
    assert module.metrics(found.watched)["cutpaste_accuracy"].item() == pytest.approx(11 / 12)

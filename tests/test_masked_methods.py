"""What makes each method that hides parts of images itself, and the small vision transformers they train."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from small import given, small, total

from nearfar import models
from nearfar.core import rng
from nearfar.core.errors import NearfarError
from nearfar.methods import ibot, ijepa, masks
from nearfar.methods.base import Batch
from nearfar.methods.mae import MAE
from nearfar.models.transformer import positions
from nearfar.training import optim
from nearfar.training.settings import Training


def test_a_small_transformer_is_the_mean_of_its_tokens_and_can_leave_patches_out() -> None:
    f = models.encoder("vit_w64_d2", size=16).eval()
    x = torch.rand(2, 3, 16, 16)
    tokens = f.tokens(x)
    assert tokens.patches.shape == (2, 16, 64) and tokens.prefix.shape == (2, 0, 64)
    torch.testing.assert_close(f(x), tokens.patches.mean(1))
    assert f.strides == (4,) and f.map_widths == (64,) and f.patch == 4
    keep = torch.tensor([[3, 9], [0, 15]])
    other = x.clone()
    other[0, :, :4, :4] = 0  # the first patch, which the first image does not keep
    torch.testing.assert_close(f.tokens(other, keep).patches, f.tokens(x, keep).patches)
    assert not torch.allclose(f.tokens(other).patches[0], tokens.patches[0])
    assert f(torch.rand(1, 3, 24, 24)).shape == (1, 64)
    with pytest.raises(NearfarError, match="30 x 30 px do not divide into patches of 4 px; set --image-size"):
        f(torch.rand(1, 3, 30, 30))


def test_every_place_has_numbers_of_its_own() -> None:
    found = positions(6, 5, 16)
    assert found.shape == (30, 16) and len(found.unique(dim=0)) == 30
    assert torch.equal(
        found.view(6, 5, 16)[:, 2, :8], found.view(6, 5, 16)[:1, 2, :8].expand(6, -1)
    )  # column
    assert torch.equal(found.view(6, 5, 16)[3, :, 8:], found.view(6, 5, 16)[3, :1, 8:].expand(5, -1))  # row


def test_patches_are_pixels_row_by_row_and_can_be_normalised() -> None:
    x = torch.rand(2, 3, 8, 12)
    found = masks.patch_pixels(x, 4)
    assert found.shape == (2, 6, 48)
    assert torch.equal(found[1, 4], x[1, :, 4:8, 4:8].flatten())
    made = masks.normalised(found)
    torch.testing.assert_close(made.mean(2), torch.zeros(2, 6), atol=1e-5, rtol=0)
    torch.testing.assert_close(made.var(2), torch.ones(2, 6), atol=1e-3, rtol=0)
    assert torch.equal(masks.normalised(torch.ones(1, 1, 48)), torch.zeros(1, 1, 48))
    order = masks.shuffled(Batch([], torch.tensor([5, 9, 5]), None, 3), 16)
    assert torch.equal(order[0], order[2]) and not torch.equal(order[0], order[1])
    assert torch.equal(order.sort(1).values, torch.arange(16).expand(3, 16))


def test_mae_hides_three_quarters_and_never_sees_them() -> None:
    module = small("mae")
    batch = given(module, 3)
    y, target, hidden = module.embed(batch)
    assert y.shape == target.shape == (3, 16, 48) and hidden.sum(1).tolist() == [12, 12, 12]
    (x,) = batch.views
    blank = masks.patch_pixels(x, 4) * ~hidden[:, :, None]
    blank = torch.nn.functional.fold(blank.transpose(1, 2), 16, 4, stride=4)
    torch.testing.assert_close(module.embed(Batch([blank], batch.rows))[0], y)
    other = target + torch.rand(3, 16, 48) * ~hidden[:, :, None]  # what was seen is no target
    torch.testing.assert_close(total(module.loss(y, other, hidden)), total(module.loss(y, target, hidden)))


def test_mae_fills_in_stripes() -> None:
    """The phase of vertical stripes can be seen in any patch."""
    torch.manual_seed(0)
    f = models.encoder("vit_w64_d2", size=16)
    module = MAE(f, small("mae", decoder_width=32, decoder_depth=1, masked=0.5).config)
    maker = optim.optimizer(Training(optimizer="muon", lr=0.02), module)
    draw = np.random.default_rng(0)
    for step in range(160):
        phase = torch.from_numpy(draw.uniform(0, 6.3, (16, 1))).float()
        x = 0.5 + 0.4 * torch.sin(phase + torch.arange(16) * 0.8)
        found = module(Batch([x[:, None, None].expand(-1, 3, 16, -1)], torch.arange(16), None, step))
        maker.zero_grad()
        total(found).backward()
        maker.step()
    assert module.metrics(found.watched)["hidden_explained"].item() > 0.85


def test_mae_asks_for_patches() -> None:
    with pytest.raises(NearfarError, match="'resnet10_w16' has no patches; choose a vision transformer"):
        MAE(models.encoder("resnet10_w16"))


@pytest.mark.parametrize("name", ["resnet10_w16", "vit_w64_d2"])
def test_simmim_hides_blocks_from_any_encoder(name: str) -> None:
    config = small("simmim", masked=0.5).config
    module = type(small("simmim"))(models.encoder(name, size=16), config).eval()
    batch = given(module, 3)
    y, x, hidden = module.embed(batch)
    assert y.shape == x.shape == (3, 3, 16, 16) and hidden.sum((1, 2)).tolist() == 3 * [128]
    blank = x * ~hidden[:, None]
    torch.testing.assert_close(module.embed(Batch([blank], batch.rows))[0], y)
    with pytest.raises(NearfarError, match="18 px do not divide into blocks of 4 px"):
        module.embed(Batch([torch.rand(1, 3, 18, 18)], torch.arange(1)))


# iBOT


def test_ibot_masks_nothing_in_half_of_the_views_and_a_share_in_the_others() -> None:
    batch = Batch([torch.zeros(400, 3, 16, 16)], torch.arange(400))
    hidden = ibot.masks(batch, 16, 0.5, "masks 0")
    share = hidden.float().mean(1)
    assert 150 < int((share == 0).sum()) < 250 and share[share > 0].min() >= 0.1 and share.max() <= 0.5
    assert torch.equal(hidden[5:7], ibot.masks(batch.part(slice(5, 7)), 16, 0.5, "masks 0"))
    assert not torch.equal(hidden, ibot.masks(batch, 16, 0.5, "masks 1"))
    few = ibot.masks(batch, 4, 0.9, "masks 0").sum(1)
    assert few.unique().tolist() == [0, 1, 2, 3]  # however few there are, one is seen


def test_ibots_teacher_sees_what_the_student_does_not() -> None:
    module = small("ibot", masked=0.9)
    batch = given(module, 6)
    x, y, x_p, y_p, hidden, _ = module.embed(batch)
    one = int(hidden[0].any(1).nonzero()[0])
    assert hidden[0][one].any() and y_p[0].grad_fn is None and x_p[0].shape == y_p[0].shape == (6, 16, 16)
    views = [view.clone() for view in batch.views]
    at = int(hidden[0][one].nonzero()[0])
    rows, columns = slice(at // 4 * 4, at // 4 * 4 + 4), slice(at % 4 * 4, at % 4 * 4 + 4)
    views[0][one, :, rows, columns] = 0.9
    again = module.embed(Batch(views, batch.rows))
    torch.testing.assert_close(again[0][0][one], x[0][one])
    assert not torch.allclose(again[1][0][one], y[0][one])


def test_koleo_is_least_for_rows_spread_evenly_and_sinkhorn_uses_all_outputs() -> None:
    square = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1.0]])
    near = torch.tensor([[1.0, 0], [1, 0.1], [-1, 0], [-1, 0.1]])
    assert float(ibot.koleo(square)) == pytest.approx(-math.log(2**0.5), abs=1e-6)
    assert float(ibot.koleo(near)) > 1
    module = small("ibot", koleo=0.1, centring="sinkhorn")
    found = module(given(module, 8))
    assert set(found.terms) == {"image", "patch", "koleo"} and total(found).isfinite()
    sharp = module._sharp(torch.randn(32, 16) + 5 * torch.arange(16), module.centre, torch.tensor(0.5))
    torch.testing.assert_close(sharp.sum(1), torch.ones(32))
    assert sharp.sum(0).max() < 8  # an output that all rows prefer is not all there is
    z, outputs = (torch.nn.functional.normalize(torch.randn(count, 32), dim=1) for count in (64, 16))
    outputs[:8] = z[:8]  # some rows lie on outputs, and others near none
    module = small("ibot", centring="sinkhorn", teacher_temperature_start=0.003)
    sharp = module._sharp(z @ outputs.T, module.centre, torch.tensor(0.003))
    torch.testing.assert_close(sharp.sum(1), torch.ones(64))


# I-JEPA


def slow_masks(
    batch: Batch, rows: int, columns: int, blocks: int, context: float
) -> tuple[list[set[int]], list[list[set[int]]]]:
    """Context and target blocks of each image, patch by patch."""
    key = rng.fold(batch.key, "masks")
    a, b = (float(u) for u in rng.uniform(key, [0], 2)[0])
    size, aspect = rows * columns * (0.15 + 0.05 * a), 0.75 + 0.75 * b
    height = max(1, min(round(math.sqrt(size * aspect)), rows - 1))
    width = max(1, min(round(math.sqrt(size / aspect)), columns - 1))
    count = min(round(rows * columns * context), rows * columns - height * width)
    contexts, targets = [], []
    for row in batch.rows.tolist():
        corners = iter(rng.uniform(rng.fold(key, "corners"), [row], 2 * blocks * 8)[0])
        order = rng.uniform(rng.fold(key, "context"), [row], rows * columns)[0]
        for attempt in range(8):
            found = []
            for number in range(blocks):
                top, left = (
                    int(next(corners) * (rows - height + 1)),
                    int(next(corners) * (columns - width + 1)),
                )
                places = {(top + r) * columns + left + c for r in range(height) for c in range(width)}
                found.append(places if attempt < 7 or not number else found[0])
            free = sorted(set(range(rows * columns)).difference(*found), key=lambda place: order[place])
            if len(free) >= count:
                break
        contexts.append(set(free[:count]))
        targets.append(found)
    return contexts, targets


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (8, 8), (3, 5)])
def test_ijepas_blocks_are_those_of_the_loops_and_no_context_holds_a_patch_of_them(
    rows: int, columns: int
) -> None:
    shapes = set()
    for key in range(12):
        batch = Batch([], torch.arange(10) * 7, None, key)
        seen, at = ijepa.masks(batch, rows, columns, 4, 0.25)
        contexts, targets = slow_masks(batch, rows, columns, 4, 0.25)
        assert [set(one) for one in seen.tolist()] == contexts
        assert [[set(block) for block in one] for one in at.tolist()] == targets
        assert all(not one & set().union(*blocks) for one, blocks in zip(contexts, targets, strict=True))
        assert seen.shape == (10, min(round(rows * columns / 4), rows * columns - at.shape[2]))
        half = ijepa.masks(batch.part(slice(4, 10)), rows, columns, 4, 0.25)
        assert torch.equal(half[0], seen[4:]) and torch.equal(half[1], at[4:])
        shapes.add(at.shape[2])
    assert len(shapes) > 1  # drawn anew at each step
    many = ijepa.masks(batch, 8, 8, 40, 0.25)  # forty blocks leave enough only in one place
    assert (many[1] == many[1][:, :1]).all()


def test_ijepa_predicts_the_ema_copys_features_from_the_context_and_places_alone() -> None:
    module = small("ijepa")
    batch = given(module, 3)
    (x,) = batch.views
    y, target, at = module.embed(batch)
    seen, _ = ijepa.masks(batch, 4, 4, 4, 0.25)
    shown = torch.zeros(3, 16).scatter(1, seen, 1.0).view(3, 1, 4, 4)
    shown = torch.nn.functional.interpolate(shown, scale_factor=4, mode="nearest")
    other = module.embed(Batch([x * shown + 0.7 * (1 - shown)], batch.rows))
    torch.testing.assert_close(other[0], y)  # nothing but the context is seen
    assert not torch.allclose(other[1], target)  # by the copy all is
    # The copy's features: it is not f, and each patch has mean 0 and variance 1.
    assert target.grad_fn is None and y.shape == (*at.shape, 64) and target.shape == (3, 16, 64)
    torch.testing.assert_close(target.mean(2), torch.zeros(3, 16), atol=1e-5, rtol=0)
    torch.testing.assert_close(target.var(2, unbiased=False), torch.ones(3, 16), atol=1e-2, rtol=0)
    with torch.no_grad():
        module.f.net.conv_proj.weight.mul_(2)
    again = module.embed(batch)
    assert torch.equal(again[1], target) and not torch.allclose(again[0], y)
    module.after_step(0.5, {})
    assert not torch.allclose(module.embed(batch)[1], target)
    # With the same context, what is asked for differs by its place alone.
    where, seen = positions(4, 4, 16), seen[:1, :2]
    told = [module.predictor(torch.zeros(1, 2, 64), seen, torch.tensor([[k]]), where) for k in (0, 5)]
    assert not torch.allclose(*told)
    with pytest.raises(NearfarError, match="views of 4 px are one patch"):
        module.embed(Batch([x[:, :, :4, :4]], batch.rows))


def test_ijepas_share_explained_counts_nothing_that_places_alone_tell() -> None:
    module = small("ijepa", standardised=False)
    target = torch.randn(1, 16, 64).expand(6, -1, -1) + 0.1 * torch.randn(6, 16, 64)
    at = torch.arange(16).view(1, 4, 4).expand(6, -1, -1)
    known = module.loss(target.view(6, 4, 4, 64), target, at)
    places = module.loss(target.mean(0).view(1, 4, 4, 64).expand(6, -1, -1, -1), target, at)
    assert float(module.metrics(known.watched)["features_explained"]) == 1
    assert float(module.metrics(places.watched)["features_explained"]) == pytest.approx(0, abs=1e-5)


# All of them


@pytest.mark.parametrize(("name", "own"), [("mae", {}), ("simmim", {"block": 8})])
@pytest.mark.parametrize("share", [0.05, 0.95])
def test_something_is_hidden_and_something_seen_however_few_parts_an_image_has(name, own, share) -> None:
    module = small(name, masked=share, **own)
    batch = given(module, 4, side=8 if name == "mae" else 16)  # four parts
    found = module.embed(batch)
    hidden = found[-1].flatten(1).float().mean(1)
    assert (hidden == (0.25 if share < 0.5 else 0.75)).all()
    assert torch.isfinite(total(module.loss(*found)))
    with pytest.raises(NearfarError, match="views of . px are one .*, which leaves nothing to predict"):
        module(given(module, 4, side=4 if name == "mae" else 8))


@pytest.mark.parametrize(
    ("name", "slow"), [("mae", 0.95), ("beit", 0.98), ("simmim", 0.999), ("ijepa", 0.999)]
)
def test_momenta_are_the_authors(name: str, slow: float) -> None:
    assert optim.optimizer(Training(optimizer="adamw"), small(name)).defaults["betas"] == (0.9, slow)

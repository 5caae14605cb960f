"""What makes each method that hides parts of images itself, and the small vision transformers they train."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from small import given, small, total

from nearfar import models
from nearfar.core.errors import NearfarError
from nearfar.methods import ibot, masks
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

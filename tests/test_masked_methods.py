"""What makes each method that hides parts of images itself, and the small vision transformers they train."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small import given, small, total

from nearfar import models
from nearfar.core.errors import NearfarError
from nearfar.methods import masks
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

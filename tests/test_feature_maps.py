"""Feature maps and tokens: their shapes and strides in every kind of network, and that they are its own."""

from __future__ import annotations

import pytest
import torch

from nearfar import models
from nearfar.core.errors import NearfarError
from nearfar.models import every_scale

# Name, stem, side: the strides, the channels of the last map, and whether the vector is the last map's mean.
NETS = {
    ("resnet8", "standard", 32): ((2, 4, 8), 512, True),
    ("resnet8", "small", 32): ((1, 2, 4), 512, True),
    ("resnet10_w16", "standard", 64): ((2, 4, 8, 16), 128, True),
    ("resnet18", "small", 32): ((1, 2, 4, 8), 512, True),
    ("torchvision:resnet18", "standard", 64): ((2, 4, 8, 16, 32), 512, True),
    ("torchvision:resnet18", "standard", 100): ((2, 4, 8, 16, 32), 512, True),
    ("mobilenet_v3_small", "standard", 64): ((2, 4, 8, 16, 32), 576, False),
    ("densenet121", "standard", 64): ((2, 4, 8, 16, 32), 1024, True),
    ("shufflenet_v2_x0_5", "standard", 64): ((2, 4, 8, 16, 32), 1024, True),
    ("regnet_y_400mf", "standard", 64): ((2, 4, 8, 16, 32), 440, True),
    ("mnasnet0_5", "standard", 64): ((2, 4, 8, 16, 32), 1280, True),
    ("squeezenet1_1", "standard", 64): ((2, 4, 8, 16), 512, True),
    ("googlenet", "standard", 64): ((2, 4, 8, 16, 32), 1024, True),
    ("swin_t", "standard", 64): ((4, 8, 16, 32), 768, True),
    ("vit_b_16", "standard", 64): ((16,), 768, False),
    ("timm:resnet18", "standard", 64): ((2, 4, 8, 16, 32), 512, True),
    ("timm:resnet18", "small", 32): ((1, 2, 4, 8), 512, True),
    ("timm:test_efficientnet", "standard", 64): ((2, 4, 8, 16, 32), 256, True),
    ("timm:test_convnext", "standard", 64): ((4, 8, 16, 32), 64, False),
    ("timm:swin_tiny_patch4_window7_224", "standard", 224): ((4, 8, 16, 32), 768, True),
    ("timm:vit_tiny_patch16_224", "standard", 96): ((16,), 192, False),
}
VITS = ["timm:vit_tiny_patch16_224", "vit_b_16", "timm:test_vit2"]


def seen(name: str, stem: str, side: int) -> tuple[models.Encoder, torch.Tensor]:
    torch.manual_seed(0)
    f = models.encoder(name, stem=stem, size=side).eval()
    for key, weight in f.named_parameters():
        if key.endswith("bn2.weight"):  # so that blocks are more than their shortcuts
            torch.nn.init.constant_(weight, 0.5)
    return f, torch.rand(2, 3, side, side)


@pytest.mark.parametrize("side", [32, 37])
@pytest.mark.parametrize("stem", ["standard", "small"])
@torch.no_grad()
def test_a_finished_resnet8_gives_means_and_deviations_of_every_map(side: int, stem: str) -> None:
    f, x = seen("resnet8", stem, side)
    kept = every_scale.finished(f)
    parts = [part for y in f.maps(x)[::-1] for part in (y.mean((2, 3)), y.flatten(2).std(2, correction=0))]
    assert kept.dim == sum(part.shape[1] for part in parts) == 2 * (32 + 64 + 512)
    torch.testing.assert_close(kept(x), torch.cat(parts, 1), rtol=1e-3, atol=2e-3)
    assert every_scale.finished(kept) is kept
    again = every_scale.as_trained(kept)  # so that heads of training still fit
    torch.testing.assert_close(again(x), f(x), rtol=0, atol=0)
    assert every_scale.as_trained(again) is again and not again.args
    assert every_scale.finished(other := models.encoder("resnet10_w16")) is other


def test_a_channel_that_is_0_everywhere_has_a_gradient() -> None:
    f = models.encoder("resnet8", size=32, args=models.EVERY_SCALE)
    f(torch.zeros(2, 3, 32, 32)).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in f.parameters() if p.grad is not None)


@pytest.mark.parametrize("made", NETS, ids=lambda made: "-".join(map(str, made)))
@torch.no_grad()
def test_maps_have_their_strides_and_end_where_the_vector_begins(made: tuple[str, str, int]) -> None:
    strides, width, pooled = NETS[made]
    f, x = seen(*made)
    maps = f.maps(x)
    assert f.strides == strides and len(maps) == len(strides)
    # Some networks round a side up where they halve it, and some round it down.
    assert all(one.shape[2] == one.shape[3] for one in maps)
    assert all(abs(one.shape[2] - made[2] / s) <= 1 for one, s in zip(maps, strides, strict=True))
    assert maps[-1].shape[:2] == (2, width)
    close = maps[-1].shape[1] == f.dim and torch.allclose(maps[-1].mean((2, 3)), f(x), atol=1e-5)
    assert close == pooled
    assert torch.equal(f(x), f.eval()(x))  # and maps have left the encoder as it was


def test_maps_see_each_place_and_pass_gradients_on() -> None:
    f, x = seen("resnet10_w16", "standard", 64)
    for one in f.maps(x.requires_grad_()):
        (grad,) = torch.autograd.grad(one[0, :, 0, 0].sum(), x, retain_graph=True)
        assert grad[0, :, :2, :2].abs().sum() > 0 and grad[1].abs().sum() == 0
    assert f.training is False
    f.train()
    before = {key: value.clone() for key, value in f.state_dict().items()}
    assert f.strides == (2, 4, 8, 16) and all(part.training for part in f.modules())
    assert all(torch.equal(value, before[key]) for key, value in f.state_dict().items())


@pytest.mark.parametrize("name", VITS)
@torch.no_grad()
def test_tokens_are_the_vectors_own(name: str) -> None:
    f, x = seen(name, "standard", 64)
    patches, prefix = f.tokens(x)
    side = round(patches.shape[1] ** 0.5)
    assert patches.shape == (2, side * side, f.dim) and prefix.shape[::2] == (2, f.dim)
    pool = getattr(f.net, "global_pool", "token")
    vector = prefix[:, 0] if pool == "token" else patches.mean(1)
    norm = getattr(f.net, "fc_norm", torch.nn.Identity())
    torch.testing.assert_close(norm(vector), f(x))
    torch.testing.assert_close(f.maps(x)[-1].flatten(2).transpose(1, 2), patches)


@pytest.mark.parametrize("name", VITS)
@torch.no_grad()
def test_patches_are_left_out_before_the_blocks(name: str) -> None:
    f, x = seen(name, "standard", 64)
    whole = f.tokens(x)
    count = whole.patches.shape[1]
    every = torch.arange(count).expand(2, -1)
    for a, b in zip(f.tokens(x, every), whole, strict=True):
        assert torch.equal(a, b)
    order = torch.stack([torch.randperm(count) for _ in range(2)])
    mixed = f.tokens(x, order)  # positions go with their patches
    torch.testing.assert_close(mixed.patches, whole.patches.take_along_dim(order[:, :, None], 1))
    torch.testing.assert_close(mixed.prefix, whole.prefix)
    keep = torch.tensor([[0, 3], [2, 1]])
    kept = f.tokens(x, keep)
    assert kept.patches.shape == (2, 2, f.dim)
    # What was left out cannot have been seen: the rest of the image may be anything.
    other, patch = torch.rand_like(x), 64 // round(count**0.5)
    for row, patches in enumerate(keep.tolist()):
        for number in patches:
            top, left = (patch * part for part in divmod(number, round(count**0.5)))
            place = (row, slice(None), slice(top, top + patch), slice(left, left + patch))
            other[place] = x[place]
    for a, b in zip(f.tokens(other, keep), kept, strict=True):
        torch.testing.assert_close(a, b)
    assert not torch.equal(kept.patches, whole.patches.take_along_dim(keep[:, :, None], 1))


@torch.no_grad()
def test_other_transformers_have_tokens_but_keep_all_patches() -> None:
    f, x = seen("timm:eva02_tiny_patch14_224", "standard", 224)
    patches, prefix = f.tokens(x)
    assert patches.shape == (2, 256, f.dim) and prefix.shape == (2, 1, f.dim) and f.strides == (14,)
    with pytest.raises(NearfarError, match="cannot drop patches"):
        f.tokens(x, torch.zeros(2, 1, dtype=torch.int64))


def test_a_network_without_maps_or_tokens_is_told() -> None:
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4))
    f = models.Encoder(flat, 4, "flat", "standard", 2)
    with pytest.raises(NearfarError, match="'flat' has no feature maps; choose"):
        f.maps(torch.rand(1, 3, 2, 2))
    for made in (f, models.encoder("resnet8"), models.encoder("resnet18"), models.encoder("timm:resnet18")):
        with pytest.raises(NearfarError, match="has no tokens; choose a vision transformer"):
            made.eval().tokens(torch.rand(1, 3, 32, 32))

"""The plain features that an encoder is compared with: principal components, colours and k-means patches."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from nearfar.data import cache
from nearfar.data.sources import open_source
from nearfar.features import patches, probes
from nearfar.features.colour_histogram import HUES, SATURATIONS, VALUES, ColourHistogram, hsv_bins
from nearfar.images.views import Preprocess


@pytest.mark.parametrize("dims", [3, 5])
def test_principal_components_are_scikit_learns(dims: int) -> None:
    draw = np.random.default_rng(0)
    mixed = draw.normal(size=(40, 4)) * [60, 30, 15, 8] @ np.linalg.qr(draw.normal(size=(192, 4)))[0].T
    pixels = (mixed + 128).clip(0, 255).astype(np.uint8).reshape(40, 8, 8, 3)
    held = cache.load(open_source(pixels), short_side=None, max_pixels=10**6, max_bad=0.0, threads=1)
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    found = probes.principal_components(held, Preprocess.of(8), "cpu", dims)(x).detach().numpy()
    wanted = PCA(dims).fit_transform(x.flatten(1).double().numpy())
    signs = np.sign((found * wanted).sum(0))  # each direction may be turned round
    np.testing.assert_allclose(found, wanted * signs, atol=1e-4)


def test_bins_are_those_of_the_standard_librarys_hsv() -> None:
    rgb = np.random.default_rng(0).random((500, 3))
    rgb[:20] = rgb[:20, :1]  # grey
    found = hsv_bins(torch.from_numpy(rgb).float().T.reshape(1, 3, 20, 25)).flatten()
    for (r, g, b), bin_ in zip(rgb.astype(np.float32).astype(float), found.tolist(), strict=True):
        h, s, v = colorsys.rgb_to_hsv(r, g, b)
        places = [min(int(x * n), n - 1) for x, n in ((h, HUES), (s, SATURATIONS), (v, VALUES))]
        edges = [abs(x * n - round(x * n)) for x, n in ((h, HUES), (s, SATURATIONS), (v, VALUES))]
        if min(edges) > 1e-4:  # at an edge, rounding decides
            assert bin_ == (places[0] * SATURATIONS + places[1]) * VALUES + places[2]


def test_a_histogram_knows_colours_and_quarters_and_nothing_else() -> None:
    x = torch.rand(2, 3, 8, 8)
    mixed = x[:, :, torch.randperm(8)][..., torch.randperm(8)]
    h, m = ColourHistogram()(x), ColourHistogram()(mixed)
    assert h.shape == (2, ColourHistogram.dim)
    torch.testing.assert_close(h[:, :144], m[:, :144])  # the whole does not see places
    assert (h[:, 144:] - m[:, 144:]).abs().max() > 0.1  # the quarters do
    torch.testing.assert_close(h.view(2, 5, 144).square().sum(2), torch.ones(2, 5))


def test_quarters_of_odd_sides_hold_every_pixel() -> None:
    x = torch.rand(1, 3, 5, 7)
    h, bins = ColourHistogram()(x).view(5, 144), hsv_bins(x)[0]
    parts = [bins, bins[:2, :3], bins[:2, 3:], bins[2:, :3], bins[2:, 3:]]
    for found, part in zip(h, parts, strict=True):
        torch.testing.assert_close(found.square(), part.flatten().bincount(minlength=144) / part.numel())


def test_patches_are_cut_at_every_place() -> None:
    x = torch.arange(8.0 * 7).view(1, 1, 8, 7).expand(1, 3, -1, -1)  # 3 x 2 places; a row is 7 brighter
    x = x + (100 * (torch.arange(56) % 13 == 0)).view(8, 7)  # so that no two patches are alike
    found = patches.cut(x, torch.Generator().manual_seed(0), each=200).unique(dim=0)
    windows = x.unfold(2, 6, 1).unfold(3, 6, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 108)
    flat = windows - windows.mean(1, keepdim=True)
    wanted = flat / (flat.square().mean(1, keepdim=True) + patches.FLAT).sqrt()
    assert len(found) == len(wanted) == 6
    assert torch.cdist(found, wanted).amin(0).max() < 1e-3


def test_folded_convolution_equals_patches_cut_out_one_by_one() -> None:
    torch.manual_seed(0)
    x = torch.rand(3, 3, 12, 14)
    net = patches.fit(iter([torch.rand(64, 3, 16, 16)]), 0, centres=7, patches=2000)
    found = net(x)
    windows = x.unfold(2, 6, 1).unfold(3, 6, 1)  # (3, 3, 7, 9, 6, 6)
    flat = windows.permute(0, 2, 3, 1, 4, 5).reshape(-1, 108)
    flat = flat - flat.mean(1, keepdim=True)
    flat = flat / (flat.square().mean(1, keepdim=True) + patches.FLAT).sqrt()
    answer = (flat @ net.weight.flatten(1).T - net.offset).view(3, 7, 9, 7).permute(0, 3, 1, 2)
    both = torch.cat([(answer - 0.25).clamp_min(0), (-answer - 0.25).clamp_min(0)], 1)
    slow = torch.nn.functional.adaptive_avg_pool2d(both, 2).flatten(1)
    torch.testing.assert_close(found, slow, rtol=1e-4, atol=1e-5)


def test_k_means_finds_planted_directions() -> None:
    generator = torch.Generator().manual_seed(0)
    planted = torch.nn.functional.normalize(torch.randn(5, 20, generator=generator), dim=1)
    sign = torch.randint(2, (2000, 1), generator=generator) * 2 - 1
    x = sign * planted[torch.randint(5, (2000,), generator=generator)]
    x = x + 0.05 * torch.randn(x.shape, generator=generator)
    found = patches.spherical_kmeans(x, 12, generator)
    assert ((found @ planted.T).abs().amax(0) > 0.99).all()


def test_the_same_seed_gives_the_same_patches() -> None:
    images = torch.rand(64, 3, 16, 16)
    one, two = (patches.fit(iter([images]), 3, centres=9, patches=500) for _ in range(2))
    assert torch.equal(one.weight, two.weight) and one(images[:2]).shape == (2, 72)

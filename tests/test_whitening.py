"""Whitening: vectors of which no few directions decide, fitted to the images of a run and kept with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.linalg import hadamard

import nearfar
from nearfar.data.cache import load
from nearfar.data.open import open_data
from nearfar.features import whitening
from nearfar.features.extract import features
from nearfar.models import every_scale


def test_whitened_vectors_have_the_covariance_that_the_formula_says() -> None:
    generator = torch.Generator().manual_seed(0)
    mixed = (
        torch.randn(500, 6, generator=generator).double() @ torch.randn(6, 6, generator=generator).double()
    )
    x = mixed * torch.tensor([1, 10, 0.5, 1, 1, 0]).double() + 5  # the last feature never moves
    mean, matrix = whitening.whitening(x)
    y = (x - mean) @ matrix
    assert float(y.mean(0).abs().max()) < 1e-9 and bool((y[:, 5] == 0).all())
    # Eigenvalues v of the correlations become v / (v + their mean)^(2 POWER), each along its own direction.
    correlations = np.corrcoef(x[:, :5].T.numpy())
    values, directions = np.linalg.eigh(correlations)
    shrunk = (directions * (values / (values + values.sum() / 6) ** (2 * whitening.POWER))) @ directions.T
    np.testing.assert_allclose((y[:, :5].T @ y[:, :5] / 500).numpy(), shrunk, atol=1e-9)
    # Turned back: each number still belongs to its feature.
    for number in range(5):
        assert np.corrcoef(y[:, number], x[:, number])[0, 1] > 0.6


def test_a_feature_that_hardly_moves_is_not_brought_up_to_the_others() -> None:
    deviation = torch.tensor([1, 2, 4, 0.01]).double()
    x = torch.from_numpy(hadamard(8)[:, 1:5]).double() * deviation  # of no correlation at all
    scale = 1 / deviation.clamp_min(0.3 * deviation.mean())
    variance = (deviation * scale).square()
    wanted = scale * (variance + variance.mean()) ** -whitening.POWER
    torch.testing.assert_close(whitening.whitening(x)[1], torch.diag(wanted))
    assert wanted[3] < 2.5 < 1 / deviation[3]


def test_few_vectors_and_equal_ones_are_whitened_to_finite_numbers() -> None:
    for x in (torch.ones(3, 4).double(), torch.eye(4).double()[:2]):
        assert all(bool(part.isfinite().all()) for part in whitening.whitening(x))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("photos")
    draws = np.random.default_rng(0)
    for number in range(24):
        pixels = draws.integers(0, 256, (4, 4, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def test_a_run_keeps_a_whitening_of_its_own_images(photos, tmp_path) -> None:
    how = {"encoder": "resnet8", "batch_size": 8, "steps": 2, "image_size": 16, "holdout": 0.0}
    run = nearfar.pretrain(photos, out=tmp_path / "a", **how)
    images = load(
        open_data(photos), short_side=run.preprocess.decode_side, max_pixels=10**6, max_bad=0, threads=1
    )
    found = torch.from_numpy(features(run.encoder, images, run.preprocess)).double()
    assert whitening.is_whitened(run.encoder)
    assert not whitening.is_whitened(every_scale.as_trained(run.encoder))
    raw = every_scale.finished(every_scale.as_trained(run.encoder))
    x = torch.from_numpy(features(raw, images, run.preprocess)).double()
    mean, matrix = whitening.whitening(x)
    torch.testing.assert_close(found, (x - mean) @ matrix, rtol=1e-3, atol=1e-3)
    assert float(found.mean(0).abs().max()) < 1e-4
    # What goes on from it starts from the network as it was trained.
    more = nearfar.pretrain(photos, out=tmp_path / "b", weights=str(tmp_path / "a"), **how | {"lr": 1e-12})
    torch.testing.assert_close(
        every_scale.as_trained(more.encoder).net.conv1.weight,
        run.encoder.net.conv1.weight,
        rtol=1e-4,
        atol=1e-5,
    )

"""The row of a network with ImageNet weights: prepared as its library prepares it, and in the same table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision.models
from PIL import Image
from torch import nn

from nearfar import models
from nearfar.core.errors import NearfarError
from nearfar.data.cache import load
from nearfar.data.source import from_array
from nearfar.evaluation.evaluate import evaluate
from nearfar.evaluation.imagenet_baseline import imagenet
from nearfar.features.probes import encode_with
from nearfar.images.views import Preprocess
from nearfar.training.run import Run

NAME = "torchvision:mobilenet_v3_small"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "mobile.safetensors"
    safetensors.torch.save_file(models.encoder(NAME, stem="standard", size=224).net.state_dict(), path)
    return path


def test_it_sees_what_torchvision_shows_it(weights: Path) -> None:
    smooth = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8))
    pixels = np.asarray(smooth.resize((256, 256), Image.Resampling.BICUBIC))
    net, preprocess = imagenet(f"{NAME}={weights}")
    assert (preprocess.size, preprocess.crop) == (224, 224 / 256)
    theirs = torchvision.models.get_model_weights("mobilenet_v3_small").DEFAULT.transforms()
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    store = load(
        from_array("one", pixels[None], None, first=False),
        short_side=None,
        max_pixels=1 << 20,
        max_bad=0.0,
        threads=1,
    )
    net.net = nn.Flatten()  # what the network is given, and not what it makes of that
    found = encode_with(net, preprocess, torch.device("cpu"), 4)(store)
    assert torch.allclose(found, theirs(image)[None].flatten(1), atol=1e-4)


def test_it_stands_in_the_table(tmp_path: Path, labelled: Path, weights: Path) -> None:
    encoder = models.encoder("resnet10_w16", size=16, seed=0).eval()
    run = Run(tmp_path, encoder, Preprocess.of(16), {}, {})
    parts = {"train": labelled / "train", "test": labelled / "test", "baselines": ("pixels",)}
    found = evaluate(run, imagenet=f"{NAME}={weights}", **parts)
    assert (
        set(found.knn) == {"encoder", "pixels", "imagenet", "chance"} and "ImageNet weights" in found.table()
    )


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ("resnet999", "is not known"),
        ("resnet8", "no pretrained weights"),
        (f"{NAME}=none.safetensors", "no such"),
    ],
)
def test_what_is_not_to_be_had(named: str, says: str) -> None:
    with pytest.raises(NearfarError, match=says):
        imagenet(named)

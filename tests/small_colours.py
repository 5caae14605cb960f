"""Pictures whose class is their colour, and a run whose encoder sees nothing else."""

import numpy as np
import pytest
from torch import nn

from nearfar import models
from nearfar.images.views import Preprocess
from nearfar.training.run import Run

PREPROCESS = Preprocess.of(8)


class Colour(models.Encoder):
    """Sees mean colour and nothing else."""

    def __init__(self):
        net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        super().__init__(net, 3, "resnet10_w16", "standard", 8)


def pictures(n, seed):
    """Noise in three colours; the class is the colour, the noise is far stronger in any one pixel."""
    draw = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    pixels = draw.normal(128, 90, (n, 8, 8, 3))
    pixels[np.arange(n), :, :, labels] += 28
    return pixels.clip(0, 255).astype(np.uint8), [("red", "green", "blue")[k] for k in labels]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("run"), Colour().eval(), PREPROCESS, {}, {})

"""A small convolutional decoder: from a vector to an image."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

START, WIDTH = 4, 128  # places in a row, and channels, at its start


class Decoder(nn.Module):
    """A linear layer to a map of 4 x 4 places, and as many times twice the side as an image needs.

    Each step repeats every place, and convolves: transposed convolutions leave a checkerboard.

    Source:
        Odena, Dumoulin and Olah 2016, "Deconvolution and checkerboard artifacts".
    """

    def __init__(self, dim: int, side: int | None) -> None:
        """Build it with random weights.

        Args:
            dim: numbers in a vector.
            side: of the images, in pixels; None for 32.
        """
        super().__init__()
        self.start = nn.Linear(dim, WIDTH * START * START)
        layers: list[nn.Module] = []
        width, reached = WIDTH, START
        while reached < (side or 32):
            narrow = max(16, width // 2)
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(width, narrow, 3, 1, 1, bias=False)]
            layers += [nn.BatchNorm2d(narrow), nn.ReLU(inplace=True)]
            width, reached = narrow, 2 * reached
        self.steps = nn.Sequential(*layers, last := nn.Conv2d(width, 3, 3, 1, 1))
        nn.init.normal_(last.weight, std=0.02)  # near grey at the start
        nn.init.constant_(last.bias, 0.5)  # type: ignore[arg-type]

    def forward(self, h: Tensor, side: int) -> Tensor:
        """Decode vectors.

        Args:
            h: (n, dim).
            side: of the images, in pixels; they are resized to it if they have another.

        Returns:
            (n, 3, side, side), near [0, 1] once trained.
        """
        y: Tensor = self.steps(F.relu(self.start(h)).unflatten(1, (WIDTH, START, START)))
        return y if y.shape[2] == side else F.interpolate(y, size=(side, side), mode="bilinear")

"""Mel-frequency cepstral coefficients: the baseline that an encoder of sound has to beat.

The coefficients of a frame are the first of the cosine transform of its log-mels. A clip is then either the
mean and the deviation of each over time, or their course: each in 20 parts of the time, less its mean over
time. They are made of the trimmed and stretched spectrogram that an encoder is given, which helps them too.

Source: Davis and Mermelstein 1980, "Comparison of parametric representations for monosyllabic word
recognition in continuously spoken sentences".
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

COEFFICIENTS = 13
PARTS = 20


class MFCC(nn.Module):
    """The coefficients of a clip, as statistics or as a course over time."""

    def __init__(self, *, course: bool) -> None:
        """Choose what is made of them.

        Args:
            course: whether the course over time is kept; else mean and deviation.
        """
        super().__init__()
        self.course = course

    def forward(self, x: Tensor) -> Tensor:
        """Compute them.

        Args:
            x: (n, 1, mels, frames), with no level taken away.

        Returns:
            (n, 26), or (n, 260) for the course.
        """
        mels = x.shape[2]
        place = (torch.arange(mels, device=x.device) + 0.5) * math.pi / mels
        waves = torch.cos(torch.arange(COEFFICIENTS, device=x.device)[:, None] * place)  # (13, mels)
        waves = waves * math.sqrt(2 / mels)
        waves[0] = waves[0] / math.sqrt(2)
        c = waves @ x[:, 0]  # (n, 13, frames)
        if not self.course:
            return torch.cat([c.mean(dim=2), c.std(dim=2, correction=0)], dim=1)
        return F.adaptive_avg_pool1d(c - c.mean(dim=2, keepdim=True), PARTS).flatten(1)

"""Small pictures of known form and hue, and views of them: what the examples of the guide learn from."""

import os
from types import SimpleNamespace

import numpy as np
import torch

from nearfar.core import rng
from nearfar.data.cache import load
from nearfar.data.sources import open_source
from nearfar.demo.drawings import FORMS
from nearfar.images import kernels, views
from nearfar.images.view_settings import Views

QUICK = "GUIDE_QUICK" in os.environ  # for the tests: a few pictures, a few steps
NAMES, SIDE = ("checks", "cross", "dots", "ring", "stripes", "triangle"), 16
PLAIN = Views(crop_min=1, flip=0, jitter=0, grayscale=0, blur=0)
CROP = Views(crop_min=0.4, jitter=0, grayscale=0, blur=0)
JITTER = {"jitter": 1, "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.5}
COLOUR, BOTH = Views(crop_min=1, flip=0, blur=0, **JITTER), Views(crop_min=0.4, blur=0, **JITTER)


def pictures(count, seed=0):
    """Draw forms of any hue, place, size and turn on a cloudy ground of another hue.

    Returns: `images`, n pictures of 20 px; `form`, `hue` and `ground`, (n,) numbers from 0 to 5.
    """
    u = rng.uniform(rng.fold(seed, "guide"), np.arange(min(count, 90) if QUICK else count), 24 + 3 * 400)
    form, hue = (u[:, 0] * 6).astype(int), (u[:, 5] * 6).astype(int)
    size, turn, left, top = (u[:, k, None, None] for k in (1, 2, 3, 4))
    x, y = np.meshgrid(*2 * (np.linspace(-1, 1, 20),))
    x, y, turn = (
        (x - left / 2 + 0.25) / (0.6 + 0.3 * size),
        (y - top / 2 + 0.25) / (0.6 + 0.3 * size),
        2 * np.pi * turn,
    )
    x, y = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    inside = np.stack([FORMS[NAMES[f]](*at) < 0 for f, *at in zip(form, x, y, strict=True)])[..., None]
    front, ground = (0.5 + 0.5 * np.cos(2 * np.pi * (u[:, k, None] + np.arange(3) / 3)) for k in (5, 6))
    clouds = np.kron(u[:, 8:24].reshape(-1, 4, 4, 1), np.ones((1, 5, 5, 1)))
    pixels = np.where(inside, 0.3 + 0.7 * front[:, None, None], ground[:, None, None] * (0.2 + 0.5 * clouds))
    pixels = (215 * pixels + 40 * u[:, 24:].reshape(-1, 20, 20, 3)).astype(np.uint8)
    images = load(open_source(pixels), short_side=None, max_pixels=10**6, max_bad=0, threads=1)
    form, hue, ground = (torch.from_numpy(part) for part in (form, hue, (u[:, 6] * 6).astype(int)))
    return SimpleNamespace(images=images, form=form, hue=hue, ground=ground)


def view(data, settings, key, rows):
    """Make one view of some pictures: (n, 3, 16, 16)."""
    block = data.images.gather(rows)
    drawn = views.draw(settings, key, rows, block.height, block.width, SIDE)
    return kernels.apply(block, drawn, SIDE, settings.interpolation)

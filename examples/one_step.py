"""One training step of SimCLR from top to bottom, with the shapes on the way: python examples/one_step.py"""

import numpy as np
import torch

from nearfar import models
from nearfar.core import rng
from nearfar.data.cache import load
from nearfar.data.sources import open_source
from nearfar.images import kernels, views
from nearfar.images.view_settings import Views
from nearfar.losses import nt_xent, unit

SEED, STEP, SIDE, TAU = 0, 0, 32, 0.2

# Images: here random bytes; a folder's path does as well.
photos = np.random.default_rng(SEED).integers(0, 256, (64, 40, 48, 3), np.uint8)
images = load(open_source(photos), short_side=None, max_pixels=10**6, max_bad=0.1, threads=1)
print("images", len(images))

# Rows of this step: a function of the seed and the step.
rows = rng.permutation(rng.fold(SEED, "shuffle", STEP), len(images))[:16]
block = images.gather(rows)
print("rows", rows.shape)

# Two views of each image: what is drawn depends on the seed, the view and the image.
settings = Views()
made = []
for number in range(2):
    key = rng.fold(SEED, "view", STEP, number)
    draws = views.draw(settings, key, rows, block.height, block.width, SIDE)
    made.append(kernels.apply(block, draws, SIDE, settings.interpolation))
    print("view", tuple(made[-1].shape))

# The network: an encoder f, which is kept, and a head g, which serves the training.
f = models.encoder("resnet8", size=SIDE, seed=SEED)
g = models.mlp(f.dim, 128, 64)
optimizer = torch.optim.AdamW([*f.parameters(), *g.parameters()], lr=1e-3)

# Forward: both views through f and g, rows of length 1.
h = f(torch.cat(made))
z = unit(g(h))
z_i, z_j = z.chunk(2)
print("h", tuple(h.shape), "z_i", tuple(z_i.shape), "z_j", tuple(z_j.shape))

# Loss: each view must find its partner among all others; then the gradient, and the step.
loss = nt_xent(z_i, z_j, TAU)
optimizer.zero_grad()
loss.backward()
optimizer.step()
print(f"loss {loss.item():.3f}, by chance {np.log(len(z) - 1):.3f}")

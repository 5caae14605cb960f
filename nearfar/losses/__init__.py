"""Contrastive losses, exact, with memory linear in the batch size.

They can be used in any training loop: they take rows of numbers and return a scalar with a gradient.

    z_i, z_j = unit(g(f(view_i))), unit(g(f(view_j)))
    nt_xent(z_i, z_j, tau=0.2).backward()

(`triplet` and `drlim`, which choose among pairs, hold a number for each pair of an own row and any row.)
Every row must have length 1, which `unit` ensures. All are computed in float32 under autocast too, or in
float64 where the rows are. Under `torchrun` negatives are those of all processes, every process has as many
rows, and values and gradients average over the processes to those of one process with all rows, which is
what DistributedDataParallel does.
"""

from .contrastive import clip, contrastive_accuracy, dcl, info_nce, key_accuracy, nt_xent, supcon, unit
from .metric import drlim, triplet
from .sigmoid import siglip

__all__ = [
    "clip",
    "contrastive_accuracy",
    "dcl",
    "drlim",
    "info_nce",
    "key_accuracy",
    "nt_xent",
    "siglip",
    "supcon",
    "triplet",
    "unit",
]

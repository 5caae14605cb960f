"""What tests of texts share: sentences of three subjects, and the settings of a tiny run."""

from __future__ import annotations

import numpy as np

TINY = {
    "steps": 12,
    "batch_size": 16,
    "precision": "float32",
    "workers": 1,
    "device": "cpu",
    "health_checks": 2,
}
SUBJECTS = {
    "sea": ["wave", "ship", "sailor", "harbour", "tide", "anchor", "fish", "salt", "storm", "island"],
    "farm": ["cow", "barn", "wheat", "tractor", "field", "hen", "plough", "hay", "meadow", "harvest"],
    "town": ["street", "shop", "tram", "market", "square", "lamp", "window", "crowd", "bridge", "tower"],
}


def sentences(count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Sentences of three subjects, by turns, which have no word but the small ones in common."""
    draw = np.random.default_rng(seed)
    names = [list(SUBJECTS)[at % 3] for at in range(count)]
    made = []
    for name in names:
        a, b, c, d = draw.choice(SUBJECTS[name], 4, replace=False)
        made.append(f"The {a} and the {b} are near a {c}, as the {d} is.")
    return made, names

"""A pendulum that hangs on a pushed cart, drawn as frames of 24 px."""

import numpy as np

from nearfar.core import rng

SIDE, STEP = 24, 0.05  # pixels, and seconds from one frame to the next


def motion(draws):
    """Push the cart at random between two walls.

    Args: draws (length, 3) uniform numbers.
    Returns: (length, 5) position and velocity of the cart, sine and cosine of the angle, angular velocity.
    """
    (x, angle, spin), v, push, states = draws[0] * (1, 6.3, 4) - (0.5, 0, 2), 0.0, 0.0, []
    for strength, change, _ in draws:
        push = 24 * (strength - 0.5) if change < 0.2 else push  # a push lasts five steps on average
        v = 0.98 * v + STEP * push
        v = -v if abs(x + STEP * v) > 0.6 else v
        spin = 0.995 * spin - STEP * (12 * np.sin(angle) + push * np.cos(angle))
        x, angle = x + STEP * v, angle + STEP * spin
        states.append((x, v, np.sin(angle), np.cos(angle), spin))
    return np.array(states, np.float32)


def render(states, ground):
    """Draw states (n, 5) on a ground (24, 24) in [0, 1]: (n, 24, 24) uint8."""
    down, across = np.mgrid[-1:1:24j, -1:1:24j]
    x, sine, cosine = (states[:, k, None, None] for k in (0, 2, 3))
    across, down = across - x, down + 0.1  # from the cart
    along = np.clip(across * sine + down * cosine, 0, 0.6)  # each pixel's nearest point of the rod
    rod = np.hypot(across - along * sine, down - along * cosine) < 0.07
    bob = np.hypot(across - 0.6 * sine, down - 0.6 * cosine) < 0.17
    cart = (np.abs(across) < 0.22) & (np.abs(down) < 0.09)
    return np.where(rod | bob | cart, 255, 160 * ground).astype(np.uint8)


def episode(number, length):
    """Give an episode's frames, on a ground of its own, and its states."""
    states = motion(rng.uniform(rng.fold(1, "episode", number), np.arange(length), 3).astype(float))
    ground = rng.uniform(rng.fold(1, "ground", number), [0], 36).reshape(6, 6)
    return render(states, np.kron(ground, np.ones((4, 4)))), states

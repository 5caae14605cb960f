"""A replay store: the last frames that an agent saw."""

import numpy as np
import torch


class Replay:
    """The last frames that were seen, and their states, which serve the measurement alone."""

    def __init__(self, capacity, side=24):
        self.frames, self.states = (
            np.zeros((capacity, side, side), np.uint8),
            np.zeros((capacity, 5), np.float32),
        )
        self.of, self.at = np.full(capacity, -1), 0

    def add(self, number, frames, states):
        """Put an episode over the oldest frames."""
        rows = (self.at + np.arange(len(frames))) % len(self.of)
        self.frames[rows], self.states[rows], self.of[rows] = frames, states, number
        self.at = (self.at + len(frames)) % len(self.of)

    def usable(self, ahead=0):
        """Give the rows that have two frames before them, and `ahead` after them, of the same episode."""
        rows = np.arange(2, len(self.of) - ahead)
        return rows[(self.of[rows] >= 0) & (self.of[rows - 2] == self.of[rows + ahead])]

    def stacks(self, rows):
        """Give frames with the two before them: (n, 3, side, side) in [0, 1]."""
        return torch.from_numpy(np.stack([self.frames[rows - k] for k in (2, 1, 0)], 1)).float() / 255

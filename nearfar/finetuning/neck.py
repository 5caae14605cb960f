"""The first layers of the head g that a run kept, between its encoder and a classifier's linear layer.

Source:
    Chen et al. 2020, "Big self-supervised models are strong semi-supervised learners" (SimCLR v2), section 2:
    fine-tuning from the first layer of the head is better with few labels than from the encoder alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from ..core.errors import NearfarError, fitting
from ..models import mlp
from ..models.every_scale import as_trained
from ..training.run import Run


class Neck(nn.Module):
    """Hidden layers of a head: (n, dim) to (n, width), after the last one's ReLU."""

    def __init__(self, widths: Sequence[int], norm: bool) -> None:
        """Build them with random weights.

        Args:
            widths: numbers that enter, and of each hidden layer.
            norm: whether each has a batch norm.
        """
        super().__init__()
        self.widths, self.norm = tuple(widths), norm
        layers = [
            layer for pair in itertools.pairwise(widths) for layer in [*mlp(*pair, 1, norm=norm)][: 2 + norm]
        ]
        self.layers = nn.Sequential(*layers)

    @property
    def width(self) -> int:
        """Numbers that leave."""
        return self.widths[-1]

    def forward(self, h: Tensor) -> Tensor:
        """Apply the layers to the features that the head was trained on."""
        x: Tensor = self.layers(h.float())
        return x


def neck_of(state: Mapping[str, Tensor], layers: int, name: str) -> Neck:
    """Cut the first layers off a head.

    Args:
        state: of the head, as the run keeps it.
        layers: how many.
        name: what errors call the run.

    Raises:
        NearfarError: the head has fewer hidden layers.
    """
    linear = sorted(
        int(key.split(".")[0]) for key, value in state.items() if key.endswith("weight") and value.dim() == 2
    )
    hidden = linear[:-1]
    if layers > len(hidden):
        raise NearfarError(
            f"--from-head {layers} is more than the {len(hidden)} hidden layers of the head of {name}; give "
            f"{len(hidden) or 'none'}, or pretrain with a deeper --head."
        )
    widths = [int(state[f"{linear[0]}.weight"].shape[1])]
    widths += [int(state[f"{at}.weight"].shape[0]) for at in hidden[:layers]]
    made = Neck(widths, "1.running_mean" in state)
    made.layers.load_state_dict({name: state[name] for name in made.layers.state_dict()})
    return made.eval()


def with_neck(run: Run, layers: int) -> nn.Module:
    """Give a run's encoder with the first layers of its head behind it, to be fine-tuned.

    Args:
        run: the run; left as it is.
        layers: how many; 0 for the encoder alone, as the run has it.

    Returns:
        (n, 3, size, size) to (n, width).

    Raises:
        NearfarError: the run kept no head, or the head has fewer hidden layers.
    """
    if not layers:
        return run.encoder
    with fitting(f"head of {run.name}"):
        neck = neck_of(run.part("g"), layers, run.name)
    return nn.Sequential(as_trained(run.encoder), neck).eval()

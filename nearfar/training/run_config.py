"""All settings of one run, as its config.json keeps them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .. import methods
from ..core.config import build, flag_of, to_json
from ..core.errors import NearfarError
from ..data.modalities import modality
from ..data.modality import Modality
from . import optim
from .settings import Training

MAY_CHANGE = (
    "workers",
    "save_minutes",
    "tensorboard",
    "health_checks",
    "stop_on_collapse",
    "parallel",
    "checkpoint_activations",
)  # settings that may change when a run is resumed
MEASURED = ("precision", "views_on", "compile", "threads")  # what the first session finds out and records


@dataclass(frozen=True)
class RunConfig:
    """All settings of a run, with nothing left to decide but what has to be measured."""

    method: str
    recipe: str
    training: Training
    views: Any  # the modality's settings of a view
    settings: Any  # the method's own Config
    cut: Mapping[str, Any] = field(default_factory=dict)  # of `Preprocess`, as the start of training has it

    @property
    def modality(self) -> str:
        """The name of the kind of data that is learnt from."""
        return self.training.modality

    @property
    def kind(self) -> Modality:
        """The kind of data that is learnt from."""
        return modality(self.modality)

    @property
    def image_size(self) -> int:
        """Side of a view in pixels."""
        assert self.training.image_size is not None
        return self.training.image_size

    @property
    def early_size(self) -> int | None:
        """Side of the views of the first steps, in pixels, a multiple of 8; None where it is that of all."""
        if self.training.early_size == 1.0 or self.training.early_steps == 0.0:
            return None
        side = max(8, 8 * round(self.image_size * self.training.early_size / 8))
        return side if side < self.image_size else None

    @property
    def preprocess(self) -> Any:
        """What an example needs before it is encoded."""
        made = self.kind.preprocess_for(self.image_size, self.views)
        return replace(made, **self.cut) if self.cut else made

    @property
    def lr(self) -> float:
        """The learning rate at its peak, after the rate rule."""
        return optim.base_rate(self.training)

    def to_json(self) -> dict[str, Any]:
        """Write all settings as plain values."""
        return {
            "method": self.method,
            "recipe": self.recipe,
            "training": to_json(self.training),
            "views": to_json(self.views),
            "settings": to_json(self.settings),
            **({"cut": dict(self.cut)} if self.cut else {}),
        }

    @staticmethod
    def from_json(values: Mapping[str, Any], where: str) -> RunConfig:
        """Read what `to_json` wrote.

        Args:
            values: the content of a `config.json`.
            where: how an error names the place.
        """
        try:
            method, training = values["method"], build(Training, values["training"], where)
            return RunConfig(
                method,
                values["recipe"],
                training,
                build(modality(training.modality).views, values["views"], where),
                build(methods.settings(method), values["settings"], where),
                values.get("cut", {}),
            )
        except KeyError as error:
            raise NearfarError(
                f"{where}{error.args[0]!r} is missing; start over with --overwrite."
            ) from error

    def digest(self, *more: Any) -> str:
        """Name what a run is by all that may not change while it is resumed.

        Args:
            more: plain values that count too, such as the fingerprint of the images.

        Returns:
            A SHA-256 in hexadecimal.
        """
        free = (*MAY_CHANGE, *MEASURED)
        training = {name: value for name, value in to_json(self.training).items() if name not in free}
        told = [self.method, training, to_json(self.views), to_json(self.settings), *more]
        told += [dict(self.cut)] if self.cut else []
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def differences(self, other: RunConfig) -> list[str]:
        """Name the settings in which another run differs, as "--batch-size 256 became 512"."""
        found = []
        for mine, theirs in (
            (self.training, other.training),
            (self.views, other.views),
            (self.settings, other.settings),
        ):
            if type(mine) is not type(theirs):
                continue
            old, new = to_json(mine), to_json(theirs)
            for name in old:
                if name not in MAY_CHANGE and old[name] != new[name]:
                    found.append(f"{flag_of(name)} {plain(old[name])} became {plain(new[name])}")
        if self.method != other.method:
            found.insert(0, f"--method {self.method} became {other.method}")
        return found


def plain(value: Any) -> str:
    """Write the value of a setting as it is typed."""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)

"""What estimators on images share that take any setting of a run as a parameter."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state


class SettingsEstimator(BaseEstimator):
    """An estimator on images, with its own parameters and, in `_settings`, any setting of a run by name."""

    _settings: dict[str, Any]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Give every parameter by name, the run's settings among them.

        Args:
            deep: there for scikit-learn; nothing is nested here.
        """
        return {**super().get_params(deep), **self._settings}

    def set_params(self, **params: Any) -> Self:
        """Set parameters by name, as a grid search does; a setting may be new.

        Args:
            **params: as for `__init__`.
        """
        own = self._get_param_names()
        self._settings = self._settings | {name: params[name] for name in params if name not in own}
        return super().set_params(**{name: params[name] for name in params if name in own})

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        return tags


def seed_of(random_state: Any) -> int:
    """Read `random_state` as scikit-learn does; a whole number is the seed itself.

    Args:
        random_state: a whole number, a `RandomState`, or None for a seed that is different each time.
    """
    if isinstance(random_state, (int, np.integer)):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31))

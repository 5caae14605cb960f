"""What predictions of classes are made of: settings, rows, store columns, captions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..analysis.conformal import least_count
from ..core.errors import NearfarError
from ..core.text import counted
from . import calibrate

NONE = "none of these"


class ClassAnswers:
    """The part of `classify.Classification` that makes predictions of answers."""

    classes: tuple[str, ...]
    temperature: float
    predicting: Any
    known: npt.NDArray[np.float64]
    apart: bool
    noun: str = "images"
    least: float | None
    """Probability below which an image is none of the classes."""

    @property
    def many(self) -> bool:
        """Whether an image may have several labels."""
        raise NotImplementedError

    def prepare(self, predicting: Any) -> tuple[str, ...]:
        """Take the settings of a prediction; see `Task.prepare`."""
        self.predicting = predicting
        self.least = calibrate.least_probability(self.known, predicting.reject)
        if not predicting.reject:
            return ()
        if self.many:
            raise NearfarError("--reject is for one class each; this run gives several labels, or none.")
        if self.least is None:
            needed = least_count(predicting.reject)
            wanted = counted(needed, f"held-out {self.noun[:-1]}")
            raise NearfarError(
                f"--reject {predicting.reject:g} needs {wanted}, and the run had "
                f"{len(self.known):,}; give a larger share, or train with more {self.noun}."
            )
        share = f"{100 * predicting.reject:g} % of {self.noun} like"
        said = f"at most {share} the held-out ones, on average"
        if not self.apart:
            said = f"about {share} the training ones; choices were made on the same ones, so this is no bound"
        least = f"{100 * self.least:.1f} %"
        return (f"{self.noun} whose likeliest class is below {least} are none of these: {said}",)

    def columns(self) -> Mapping[str, str]:
        """Name the columns: class and probability; of several labels, texts that hold several."""
        plain = {"class": "text", "probability": "text" if self.many else "number"}
        every = {f"p_{name}": "number" for name in self.classes} if self.predicting.all_classes else {}
        return plain | every

    def _told(self, answer: Any) -> tuple[str, Any, npt.NDArray[np.float64]]:
        """Say the class or the labels of an answer, with the probability, and all probabilities."""
        shares = calibrate.probabilities(np.asarray(answer)[None], self.temperature, self.many)[0]
        if self.many:
            there = [at for at in np.argsort(-shares, kind="stable") if shares[at] >= 0.5]
            words = ";".join(self.classes[at] for at in there)
            return words, ";".join(f"{shares[at]:.4f}" for at in there), shares
        at = int(shares.argmax())
        refused = self.least is not None and shares[at] < self.least
        return NONE if refused else self.classes[at], round(float(shares[at]), 4), shares

    def rows(self, answer: Any) -> list[tuple[Any, ...]]:
        """Write one row."""
        word, share, shares = self._told(answer)
        every = [round(float(value), 4) for value in shares] if self.predicting.all_classes else []
        return [(word, share, *every)]

    def store_kinds(self) -> Mapping[str, str]:
        """Name the class and its probability."""
        return {"predicted": "text", "probability": self.columns()["probability"]}

    def store_columns(self, answer: Any) -> Mapping[str, Any]:
        """Give the class and its probability."""
        word, share, _ = self._told(answer)
        return {"predicted": word or None, "probability": share or None}

    def files(self, answer: Any) -> Mapping[str, bytes]:
        """Give none."""
        return {}

    def common_files(self) -> Mapping[str, bytes]:
        """Give none."""
        return {}

    def draw(self, pixels: npt.NDArray[np.uint8], answer: Any) -> tuple[npt.NDArray[np.uint8], str]:
        """Leave the image as it is, and write its class and probability."""
        word, share, _ = self._told(answer)
        return pixels, f"{word or '-'} {share}"

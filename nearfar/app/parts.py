"""Anomalous parts on the page: scores by a bank of normal images, maps, and what is called normal."""

from __future__ import annotations

import hashlib
import io
import shlex
import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..analysis import bank_file, conformal
from ..analysis.anomaly_maps import full_size
from ..analysis.heatmaps import overlay
from ..analysis.part_detector import HeldOut, PartDetector
from ..core.errors import BadImage, NearfarError
from ..data.source import Source
from ..images.value_range import Values
from ..queries.part_learning import still_out
from ..stores import VectorStore
from ..stores.cut_out import corners_of
from . import originals
from .findings import Findings
from .row_numbers import NumberedStore

FPR = 0.05  # that the threshold promises at first
AGAIN = 200  # images that are scored again after one more is normal, at most
CLEAR, BRIGHT = 0.75, 0.995  # quantiles of the scores of places and of images between which colours lie
SIDE = 2048  # pixels of the longer side of a map, at most

Scores = npt.NDArray[np.float32]


@dataclass(frozen=True)
class StoredPictures(Source):
    """Images of a store, read from their files if these are still what was embedded."""

    store: VectorStore
    kind: ClassVar[str] = "stored pictures"

    def read(self, index: int) -> bytes | Values:
        """Fetch one image; of an object, its pixels."""
        try:
            if corners_of(self.store, [self.ids[index]]) is not None:
                return originals.seen(self.store, self.ids[index])
            return originals.content(self.store, self.ids[index])
        except NearfarError as error:
            raise BadImage(str(error)) from None

    def stamp(self, index: int) -> str:
        """Say what would change if the image did: its content is checked, so nothing."""
        return self.ids[index]


class AnomalousParts:
    """A store's images by a bank of normal ones; safe in threads."""

    def __init__(self, rows: NumberedStore, findings: Findings, bank: str | Path) -> None:
        """Open the bank.

        Args:
            rows: the store.
            findings: knows the store's run, and keeps scores.
            bank: a file that `nearfar anomalies --parts --bank` has made.

        Raises:
            NearfarError: there is none, or it is of another encoder than the store.
        """
        self.rows, self.findings, self.path = rows, findings, Path(bank)
        self._lock = threading.RLock()
        self._stamp, self._copied = "", False
        self._detector: PartDetector
        self._held: list[HeldOut] = []
        self._look()

    def _look(self) -> PartDetector:
        """Read the bank, unless it is as it was read."""
        bank_file.check_name(self.path)
        if not self.path.exists():
            raise NearfarError(
                f"there is no bank {self.path}; make it: "
                f"nearfar anomalies NEW --normal GOOD --parts --bank {shlex.quote(str(self.path))}"
            )
        stamp = hashlib.blake2b(bank_file.card_of(self.path).read_bytes(), digest_size=16).hexdigest()
        if stamp != self._stamp:
            run = self.findings.run()
            self._detector, self._held = bank_file.load(self.path, run.encoder, run.preprocess)
            self._stamp = stamp
        return self._detector

    def _source(self, ids: Sequence[str]) -> StoredPictures:
        return StoredPictures(self.path.name, list(ids), None, self.rows.store)

    def _scores(self) -> Scores:
        """Score all images: (n,), NaN for those in the bank and those that cannot be read."""
        detector = self._look()
        ids = list(self.rows.ids)

        def work() -> Scores:
            found = np.full(len(ids), np.nan, np.float32)
            for one in detector.score(self._source(ids), range(len(ids))):
                found[one.row] = one.score
            return found

        found: Scores = self.findings.kept.array("parts", work, also=self._stamp)
        return found

    def listing(self) -> tuple[dict[str, Any], npt.NDArray[np.int32], Scores]:
        """List the images with the most anomalous parts.

        Returns:
            What is known: `held`, the scores of held-out normal images; `threshold`, which promises 5 % of
            false alarms, None where these are too few; `inside`, normal images in the bank; `flagged` by it.
            Then the rows of all images that have a score, the most anomalous first, and these scores.
        """
        with self._lock:
            self.rows.look()
            scores = self._scores()
            held = np.array([one.score for one in self._held], np.float64)
            order = np.argsort(-np.nan_to_num(scores, nan=-np.inf), kind="stable")
            order = order[: int(np.isfinite(scores).sum())]
            if not len(order):
                raise NearfarError(
                    "no image can be scored: all are in the bank, or their files are not where they were."
                )
            head = {
                "held": np.sort(held)[::-1].tolist(),
                "threshold": conformal.threshold(held, FPR),
                "inside": len(self._detector.pictures),
                "unscored": len(scores) - len(order),
                "bank": self.path.name,
            }
            return head, order.astype(np.int32), scores[order]

    def map(self, name: str) -> bytes:
        """Draw the map of an image over it, in full: a JPEG.

        Args:
            name: its id.

        Raises:
            NearfarError: its file is not what was embedded, or cannot be used.
        """
        with self._lock:
            detector, source = self._look(), self._source([name])
            low, high = self._ends()
            pixels = originals.seen(self.rows.store, name)
            found = list(detector.score(source, [0], threads=1, inside=True))
            if not found:
                raise NearfarError(f"the file of {name!r} cannot be shown: {detector.rejected[0][1]}.")
            shown = Image.fromarray(overlay(pixels, full_size(found[0].places, pixels.shape[:2]), low, high))
        shown.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        shown.save(file, "JPEG", quality=originals.QUALITY)
        return file.getvalue()

    def _ends(self) -> tuple[float, float]:
        """Choose one scale for all maps: from what held-out normal images score to what the worst do."""
        scores = self._scores()
        known = scores[np.isfinite(scores)].astype(np.float64)
        usual = [one.peak for one in self._held] or known.tolist() or [0.0]
        low = 0.7 * float(np.quantile(usual, CLEAR))
        high = max(float(np.quantile(known, BRIGHT)) if len(known) else low, 1.3 * float(max(usual)))
        return low, max(high, low + 1e-12)

    def add(self, names: Sequence[str], above: float) -> int:
        """Call images normal: they go into the bank, which is saved, and the flagged ones are scored again.

        Args:
            names: ids of images.
            above: the score above which images are flagged; the others can only come to score lower.

        Returns:
            How many the bank did not hold.

        Raises:
            NearfarError: one cannot be read, or the bank cannot be written.
        """
        with self._lock:
            detector, scores = self._look(), self._scores().copy()
            for name in names:
                originals.content(self.rows.store, name)  # says what is wrong with its file
            before = len(detector.pictures)
            try:
                detector.add(self._source(names), list(range(len(names))), vouched=True)
                if not self._copied:
                    self._keep_a_copy()
                held = still_out(self._held, detector)
                bank_file.save(self.path, detector, held)
            except BaseException:
                self._stamp = ""  # what is in memory is no longer what is in the file
                raise
            self._held = held
            self._stamp = hashlib.blake2b(
                bank_file.card_of(self.path).read_bytes(), digest_size=16
            ).hexdigest()
            scores[self.rows.numbers(names)] = np.nan
            flagged = np.flatnonzero(np.nan_to_num(scores, nan=-np.inf) > above)
            flagged = flagged[np.argsort(-scores[flagged], kind="stable")][:AGAIN]
            source = self._source([self.rows.ids[row] for row in flagged.tolist()])
            for one in detector.score(source, range(len(flagged))):
                scores[flagged[one.row]] = one.score
            self.findings.kept.array("parts", lambda: scores, also=self._stamp)
            return len(detector.pictures) - before

    def _keep_a_copy(self) -> None:
        """Copy the bank as it was before the page changed it, so that one can go back."""
        for path in (self.path, bank_file.card_of(self.path)):
            shutil.copyfile(path, path.with_name(f"{path.stem}.before{path.suffix}"))
        self._copied = True

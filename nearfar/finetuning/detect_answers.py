"""What a detection says of images: rows, columns of a store, files, pictures; and its worst mistakes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..analysis import detection_scores
from ..analysis.detection_scores import Found
from ..data import box_text, coco
from ..data.box_text import DrawnBox
from ..data.crops import CORNERS
from ..stores.schema import column_names
from .crop_task import CropTask
from .detect_network import Objects
from .objects_shown import framed, yolo_names, yolo_text
from .task_types import Labelled, Mistake

SIDE_COLUMNS = {"width": "number", "height": "number"}


class DetectionAnswers(CropTask):
    """The part of the task that needs no network; `detect.Detection` is the whole of it."""

    predicting: Any  # the settings of a prediction, `detect.Predicting`
    best: float  # score from which boxes have the best F1

    @property
    def least(self) -> float:
        """The score from which a box is written."""
        given = self.predicting.min_score
        return self.best if given is None else float(given)

    def mistakes(self, answers: Sequence[Objects], data: Labelled, count: int) -> list[Mistake]:
        """Find the images with the most missed and wrong boxes, at an overlap of a half."""
        missed, wrong = np.zeros(len(answers), np.int64), np.zeros(len(answers), np.int64)
        for row, (answer, own) in enumerate(zip(answers, data.targets, strict=True)):
            truth = Found(own.boxes, own.labels, None, own.crowd, own.difficult)
            found = answer.found
            assert found.scores is not None
            kept = found.scores >= self.least
            found = Found(found.boxes[kept], found.labels[kept], found.scores[kept])
            for label in range(len(self.classes)):
                _, right, nothing = detection_scores.match(truth, found, label, 0.5)
                missed[row] += int(((own.labels == label) & own.counted).sum()) - int(right.sum())
                wrong[row] += int((~right & ~nothing).sum())
        order = np.argsort(-(missed + wrong), kind="stable")
        found_mistakes = []
        for row in order[: min(count, int((missed + wrong > 0).sum()))].tolist():
            own, pixels = data.targets[row], data.dataset[row]
            truth = Found(own.boxes, own.labels, np.ones(len(own.boxes)))
            true = self.draw(pixels, Objects(truth, *pixels.shape[:2]))[0]
            says = f"{missed[row]} missed, {wrong[row]} wrong"
            drawn = [("true", true), ("found", self.draw(pixels, answers[row])[0])]
            found_mistakes.append(Mistake(data.dataset.ids[row], says, drawn))
        return found_mistakes

    def columns(self) -> Mapping[str, str]:
        """Name the columns: a row for each object, its corners and the image's sides in pixels."""
        return {"class": "text", "score": "number", **dict.fromkeys(CORNERS, "number"), **SIDE_COLUMNS}

    def _kept(self, answer: Objects) -> list[tuple[str, float, list[float]]]:
        """Give the objects whose score is high enough, the highest first, in shares of the sides."""
        found = answer.found
        assert found.scores is not None
        good = found.scores >= self.least
        return [
            (self.classes[label], float(score), box.tolist())
            for label, score, box in zip(
                found.labels[good], found.scores[good], found.boxes[good], strict=True
            )
        ]

    def rows(self, answer: Objects) -> list[tuple[Any, ...]]:
        """Write a row for each object; one without a class for an image that has none."""
        sides = np.array([answer.width, answer.height, answer.width, answer.height])
        found = [
            (
                name,
                round(score, 4),
                *(round(v, 2) for v in (sides * box).tolist()),
                answer.width,
                answer.height,
            )
            for name, score, box in self._kept(answer)
        ]
        return found or [("", None, None, None, None, None, answer.width, answer.height)]

    def document(self, rows: Iterator[list[Any]]) -> dict[str, Any]:
        """Write rows, the path first, as a COCO file."""
        return coco.document(rows, self.classes)

    def store_kinds(self) -> Mapping[str, str]:
        """Name a column for each class, and one of all boxes, which the page draws."""
        counts = column_names("objects", tuple(self.classes))
        return {**dict.fromkeys(counts, "number"), box_text.BOXES: "text"}

    def store_columns(self, answer: Objects) -> Mapping[str, Any]:
        """Give the number of objects of each class, and all boxes."""
        found = [DrawnBox(*row[:6]) for row in self.rows(answer) if row[0]]
        names = [box.name for box in found]
        columns = column_names("objects", tuple(self.classes))
        counts = {column: names.count(name) for column, name in zip(columns, self.classes, strict=True)}
        return {**counts, box_text.BOXES: box_text.write(found)}

    def files(self, answer: Objects) -> Mapping[str, bytes]:
        """Write a YOLO file, a line an object, where it was asked for; boxes are rows of the one file too."""
        return {".txt": yolo_text(self._kept(answer), self.classes)} if self.predicting.yolo else {}

    def common_files(self) -> Mapping[str, bytes]:
        """Name the classes beside YOLO files."""
        return {"data.yaml": yolo_names(self.classes)} if self.predicting.yolo else {}

    def draw(self, pixels: npt.NDArray[np.uint8], answer: Objects) -> tuple[npt.NDArray[np.uint8], str]:
        """Draw frames in the classes' colours, and count the objects."""
        return framed(pixels, self._kept(answer), self.classes)

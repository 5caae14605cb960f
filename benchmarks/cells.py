"""Blood cells as collections of their own: BCCD's boxes, a folder a class; white cells (WBC), two lists.

    python -m benchmarks.cells bccd/BCCD --out cells
    python -m benchmarks.cells "wbc/Dataset 1" --out white

BCCD's own lists say which photographs are for training (trainval) and for testing (test). Red cells are ten
times as many as the others, so the first two of a photograph are taken (--most), and all of the others.
Of the white cells every third is for testing; a kind of which there is one alone is left out.
"""

from __future__ import annotations

import argparse
import csv
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from nearfar.core.errors import BadImage
from nearfar.data.box_labels import open_box_labels
from nearfar.data.crops import cut

WHITE = ("neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil")
LISTS = {"train": "trainval.txt", "test": "test.txt"}


def cut_out(data: Path, out: Path, most: int) -> Counter[str]:
    """Write every object as a PNG file under out/SPLIT/CLASS, and count them by folder."""
    lists = data / "ImageSets" / "Main"
    splits = {name: set((lists / file).read_text().split()) for name, file in LISTS.items()}
    labels = open_box_labels(data / "JPEGImages", data / "Annotations")
    written: Counter[str] = Counter()
    for photo, boxes in zip(labels.source.ids, labels.boxes, strict=True):
        stem = Path(photo).stem
        split = next((name for name, stems in splits.items() if stem in stems), None)
        if split is None:
            continue
        with Image.open(data / "JPEGImages" / photo) as opened:
            image = np.asarray(opened.convert("RGB"))
        here: Counter[int] = Counter()
        for number, (corners, label) in enumerate(zip(boxes.boxes, boxes.labels.tolist(), strict=True)):
            kind = labels.classes[label]
            if kind == "RBC" and here[label] == most:
                continue
            try:
                cell = cut(image, corners * np.tile(image.shape[1::-1], 2))
            except BadImage:  # two boxes have no area
                continue
            here[label] += 1
            folder = out / split / kind
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(cell).save(folder / f"{stem}-{number}.png")
            written[f"{split}/{kind}"] += 1
    return written


def listed(data: Path, out: Path) -> Counter[str]:
    """Write train.csv and test.csv of white cells, by the table beside their folder; count by kind."""
    with (data.parent / f"Class Labels of {data.name}.csv").open(newline="") as file:
        rows = [
            (f"{int(number):03d}.bmp", WHITE[int(kind) - 1]) for number, kind in list(csv.reader(file))[1:]
        ]
    many = Counter(kind for _, kind in rows)
    rows = [row for row in rows if many[row[1]] > 1]
    out.mkdir(parents=True, exist_ok=True)
    written: Counter[str] = Counter()
    for split, own in (("test", rows[::3]), ("train", [row for at, row in enumerate(rows) if at % 3])):
        with (out / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(
                [("path", "label"), *(((data / name).resolve(), kind) for name, kind in own)]
            )
        written.update(f"{split}/{kind}" for _, kind in own)
    return written


def main() -> None:
    """Cut the cells out, or list them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--most", type=int, default=2, help="red cells of a photograph")
    words = parser.parse_args()
    boxes = (words.data / "Annotations").exists()
    found = cut_out(words.data, words.out, words.most) if boxes else listed(words.data, words.out)
    for name, count in sorted(found.items()):
        print(f"{name}: {count}")


if __name__ == "__main__":
    main()

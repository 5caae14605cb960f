"""Blood cells as a collection of their own: the boxes of BCCD cut out, in a folder a class.

    python -m benchmarks.cells bccd/BCCD --out cells

Its own lists say which photographs are for training (trainval) and for testing (test). Red cells are ten
times as many as the others, so the first two of a photograph are taken (--most), and all of the others.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from nearfar.core.errors import BadImage
from nearfar.data.box_labels import open_box_labels
from nearfar.data.crops import cut

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


def main() -> None:
    """Cut the cells out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--most", type=int, default=2, help="red cells of a photograph")
    words = parser.parse_args()
    for name, count in sorted(cut_out(words.data, words.out, words.most).items()):
        print(f"{name}: {count}")


if __name__ == "__main__":
    main()

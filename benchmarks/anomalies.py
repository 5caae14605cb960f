"""Anomalous parts of circuit boards: each detector beside pixels, whole vectors and a difference.

    python -m benchmarks.anomalies pcb runs/known --size 320

The first is a folder with `normal`, `defect` (the same designs, with defects) and `boxes`; the second a run.
The designs of the first `--bank` boards, in an order drawn by the seed, are in the bank. Two tests:

- known designs: `--test` of these boards. Good ones are the normal pictures moved by three pixels and saved
  again as JPEG, so that none is in the bank as it is; the anomalous ones are `defect`.
- other designs: as many boards that are not in the bank; good ones are the normal pictures as they are.

Figures are the command's: image and pixel AUROC, AUPRO, best F1, and bootstrap intervals over pictures.
"""

from __future__ import annotations

import argparse
import io
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

MOVED = (3, -2)  # pixels down and right


def moved(path: Path) -> bytes:
    """Move a picture, its edge continued, and save it again as JPEG."""
    x = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    down, right = MOVED
    room = max(map(abs, MOVED))
    wide = np.pad(x, ((room, room), (room, room), (0, 0)), mode="edge")
    again = wide[room - down :, room - right :][: x.shape[0], : x.shape[1]]
    file = io.BytesIO()
    Image.fromarray(again).save(file, "JPEG", quality=90)
    return file.getvalue()


def boards(
    data: Path, bank: int, test: int, seed: int = 0, dirty: float = 0.0
) -> tuple[Any, dict[str, tuple[Any, int]]]:
    """Divide the boards into a bank and two tests.

    Args:
        data: the folder.
        bank, test: boards in the bank, and in each test.
        seed: orders them.
        dirty: share of the bank that has defects.

    Returns:
        The bank's pictures; and by the name of a test its pictures, and how many of them are good, which come
        first.
    """
    from nearfar.core import rng
    from nearfar.data.in_memory import InMemorySource

    names = sorted(path.name for path in (data / "normal").iterdir())
    order = rng.permutation(rng.fold(seed, "boards"), len(names))
    names = [names[row] for row in order]
    normal, defect = data / "normal", data / "defect"

    def source(items: list[Any], ids: list[str]) -> InMemorySource:
        return InMemorySource("boards", tuple(ids), None, items)

    spoilt = round(dirty * bank)
    # Boards of other designs spoil the bank, so that no defect of the test is in it.
    items = [normal / name for name in names[: bank - spoilt]]
    items += [defect / name for name in names[len(names) - spoilt :]] if spoilt else []
    known, other = names[:test], names[bank : bank + test]
    tests = {
        "known designs": ([moved(normal / name) for name in known], known),
        "other designs": ([normal / name for name in other], other),
    }
    return source(items, [str(path) for path in items]), {
        test: (
            source([*good, *(defect / name for name in some)], [*(f"good/{name}" for name in some), *some]),
            len(some),
        )
        for test, (good, some) in tests.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("run")
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--strides", type=int, nargs="+")
    parser.add_argument("--bank", type=int, default=120)
    parser.add_argument("--test", type=int, default=40)
    parser.add_argument("--parts", nargs="*", default=["patchcore", "padim", "nearest", "spade"])
    parser.add_argument("--baselines", action="store_true")
    parser.add_argument("--others", action="store_true", help="also the test of other designs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dirty", type=float, default=0.0, help="share of the bank that has defects")
    words = parser.parse_args()
    import nearfar
    from nearfar.analysis import part_baselines
    from nearfar.analysis.anomaly_maps import full_size
    from nearfar.analysis.part_detector import PartDetector
    from nearfar.analysis.patch_features import patch_features
    from nearfar.data.defects import Truth
    from nearfar.queries.part_measures import Measures, count_pixels, table

    run = nearfar.load(words.run)
    truth = Truth(words.data / "boxes")
    bank, tests = boards(words.data, words.bank, words.test, words.seed, words.dirty)
    if not words.others:
        del tests["other designs"]
    features = patch_features(run.encoder, run.preprocess.size, words.strides)
    every = list(range(len(bank)))
    for method in words.parts:
        detector = PartDetector(features, run.preprocess, words.size, method, words.seed)
        began = time.perf_counter()
        odd = detector.add(bank, every)
        learned = time.perf_counter() - began
        if odd:
            print(f"{len(odd)} normal pictures unlike the others:", *(Path(one).name for one in odd[:12]))
        for test, (asked, good) in tests.items():
            measures = Measures(f"{method}, {test}")
            began = time.perf_counter()
            for one in detector.score(asked, list(range(len(asked)))):
                heat = full_size(one.places, one.shape)
                regions, kinds = truth.of(asked.ids[one.row], one.shape)
                count_pixels(measures.pixels, heat, regions, kinds)
                measures.add(one.score, "defect" if one.row >= good else "")
            seconds = (time.perf_counter() - began) / len(asked)
            print("\n".join(table(measures.rows(words.seed, by_kind=test == "known designs"))))
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            print(f"bank {learned:.0f} s, {seconds:.2f} s a picture, {peak:.2f} GB at most", flush=True)
    if words.baselines:
        for test, (asked, good) in tests.items():
            rows = list(range(len(asked)))
            pairs = (bank, every), (asked, rows)
            for name, scores in (
                ("pixels", part_baselines.pixels(*pairs)),
                ("whole vectors", part_baselines.vectors(run.encoder, run.preprocess, *pairs)),
            ):
                measures = Measures(f"{name}, {test}")
                for row, score in scores.items():
                    measures.add(score, "defect" if row >= good else "")
                print("\n".join(table(measures.rows(words.seed))[1:]))
            plain = PartDetector(features, run.preprocess, words.size, "nearest", words.seed)
            differences, measures = part_baselines.Differences(words.seed), Measures(f"difference, {test}")
            differences.add(plain.read(bank, every))
            for picture in plain.read(asked, rows):
                places = differences.score(picture.x)
                regions, kinds = truth.of(asked.ids[picture.row], picture.shape)
                count_pixels(measures.pixels, full_size(places, picture.shape, smooth=0), regions, kinds)
                measures.add(float(places.max()), "defect" if picture.row >= good else "")
            print("\n".join(table(measures.rows(words.seed, by_kind=False))[1:]), flush=True)


if __name__ == "__main__":
    main()

"""Records what a seed gives, and compares: a change of structure must leave every digit as it was.

    python -m benchmarks.same record before.json     # on the old code
    python -m benchmarks.same compare before.json    # on the new code, on the same machine

For each method the losses of 20 steps and the bytes of the exported encoder; for one encoder its vectors, the
figures of an evaluation, and what a store lists. Names may change between the two, numbers may not: of what
is printed as JSON, the numbers and the words without a path are kept, in their order.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from PIL import Image

SIDE, STEPS = 32, 20
TEACHERS = {"distill": "simclr", "beit": "dvae"}  # whose runs these methods learn from
UNLIKE = (
    "seconds",
    "path",
    "commit",
    "nearfar",
    "out",
    "file",
    "files",
    "address",
    "train",
    "test",
    "run",
    "task",
    "images_per_second",
)
"""Keys whose values are times, places and versions, which may differ, or that older records lack."""


def draw(root: Path) -> None:
    """Write 96 unlabelled pictures of four kinds of stripes, and labelled ones to train and to test on."""
    generator = np.random.default_rng(7)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    for folder, count in (("photos", 24), ("train", 30), ("test", 12)):
        for kind in range(4):
            place = root / folder / (f"kind{kind}" if folder != "photos" else "")
            place.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                angle = np.pi * (kind / 4 + 0.03 * generator.random())
                wave = 0.5 + 0.5 * np.sin(
                    6 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) + generator.random()
                )
                pixels = wave[..., None] * generator.random(3) + (1 - wave[..., None]) * generator.random(3)
                Image.fromarray(np.round(255 * pixels).astype(np.uint8)).save(
                    place / f"{kind}{number:03d}.png"
                )


def leaves(value: Any) -> Iterator[Any]:
    """Walk through what a result's JSON holds, in its order, without its names."""
    if isinstance(value, dict):
        for key, part in value.items():
            if key not in UNLIKE:
                yield from leaves(part)
    elif isinstance(value, list):
        for part in value:
            yield from leaves(part)
    elif isinstance(value, float):
        yield value.hex()
    elif isinstance(value, int):
        yield value


def found() -> dict[str, Any]:
    """Train, embed, evaluate and ask; give every figure."""
    import nearfar
    from nearfar import methods

    record: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        draw(root)
        for name in sorted(methods.METHODS, key=TEACHERS.__contains__):  # teachers first
            if methods.method(name).modality not in (None, "images"):
                continue
            data = root / ("train" if name in ("supervised", "supcon") else "photos")
            own: dict[str, Any] = {"teacher": str(root / TEACHERS[name])} if name in TEACHERS else {}
            own |= {"words": 16} if name == "dvae" else {}  # so few steps use no more
            run = nearfar.pretrain(
                data, out=root / name, method=name, steps=STEPS, batch_size=16, image_size=SIDE, workers=1,
                **own, encoder="auto", precision="float32", health_checks=4, seed=3, device="cpu",
            )  # fmt: skip
            record[f"{name}: losses"] = [float(line["loss"]).hex() for line in run.log()]
            record[f"{name}: health"] = list(leaves(run.health()))
            saved = (root / name / "encoder.safetensors").read_bytes()
            record[f"{name}: encoder"] = hashlib.sha256(saved).hexdigest()
        run = root / "simclr"
        vectors = nearfar.embed(run, root / "photos", out=root / "vectors.npz").vectors
        record["embedding"] = hashlib.sha256(np.ascontiguousarray(vectors).tobytes()).hexdigest()
        result = nearfar.evaluate(
            run, train=root / "train", test=root / "test", parts=("few_labels", "retrieval")
        )
        record["evaluation"] = list(leaves(json.loads(json.dumps(result.to_json()))))
        store = root / "photos.nf"
        nearfar.embed(run, root / "train", store=str(store), labels=True)
        for verb in (nearfar.anomalies, nearfar.duplicates, nearfar.label_errors, nearfar.clusters):
            record[verb.__name__] = list(leaves(json.loads(json.dumps(verb(str(store)).to_json()))))
        first = nearfar.open_store(str(store)).ids()[0]
        nearest = nearfar.search(str(store), id=first).to_json()
        record["search"] = list(leaves(json.loads(json.dumps(nearest))))
    return record


def main() -> int:
    """Record to a file, or compare with one; 1 if anything differs."""
    verb, file = sys.argv[1], Path(sys.argv[2])
    now = found()
    if verb == "record":
        file.write_text(json.dumps(now, indent=1))
        print(f"{len(now)} records in {file}")
        return 0
    before = json.loads(file.read_text())
    unlike = [name for name in before if before[name] != now.get(name)]
    for name in unlike:
        print(f"{name} differs: {str(before[name])[:200]} became {str(now.get(name))[:200]}")
    print(f"{len(before) - len(unlike)} of {len(before)} records are equal, digit for digit")
    return 1 if unlike else 0


if __name__ == "__main__":
    sys.exit(main())

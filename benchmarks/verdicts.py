"""How often a run's verdict is right: runs made healthy, and runs broken on purpose, judged by their looks.

    python -m benchmarks.verdicts --data cifar10/train --out DIR --seeds 0       # to set thresholds by
    python -m benchmarks.verdicts --data cifar10/train --photographs trash/train --out DIR --seeds 100 101 \
        --page benchmarks/verdicts.md

Each kind is a short run of `pretrain` with settings that are known to work, or with one thing broken. Which
verdicts are right for it is written below, before any run. What was made before is read, not made again.
With photographs, kinds are made of them too, and so are runs so short that little can be told.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

HEALTHY = ("healthy", "still improving", "saturating")
COLLAPSED = ("full collapse", "dimensional collapse")
BROKEN = (*COLLAPSED, "not learning", "broke down")  # the last: training ended itself, with a sentence


@dataclass(frozen=True)
class Kind:
    """A way to make a run, and the verdicts that are right for it."""

    right: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    images: int | None = None  # so few, nearly half of them held out
    longer: float = 1  # times the steps of the others
    photographs: bool = False  # with the usual views and the usual size for such
    breaks: Callable[[], Any] | None = None


@contextmanager
def gradient_both_ways() -> Iterator[None]:
    """Let the gradient flow into SimSiam's targets."""
    from nearfar.methods import simsiam

    honest = simsiam.SimSiam.loss

    def loss(self: Any, p_i: Any, p_j: Any, z_i: Any, z_j: Any) -> Any:
        return simsiam.Loss({"cosine": simsiam.D(p_i, z_j) / 2 + simsiam.D(p_j, z_i) / 2}, {"z": z_i})

    simsiam.SimSiam.loss = loss  # type: ignore[method-assign]
    try:
        yield
    finally:
        simsiam.SimSiam.loss = honest  # type: ignore[method-assign]


EARLY = ("too early to tell",)
SGD = {"optimizer": "sgd", "lr": 0.05}  # which follows the gradient's size, as Muon does not
SAME = {"crop_min": 1.0, "flip": 0.0, "jitter": 0.0, "grayscale": 0.0}
STRONG = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.5, "jitter": 1.0}
APART = {"crop_min": 0.01, "crop_max": 0.03, **STRONG}

KINDS: dict[str, Kind] = {
    "simclr": Kind(HEALTHY, {"method": "simclr"}),
    "byol": Kind(HEALTHY, {"method": "byol"}, longer=4),
    "simsiam": Kind(HEALTHY, {"method": "simsiam"}),
    "vicreg": Kind(HEALTHY, {"method": "vicreg"}),
    "barlow_twins": Kind(HEALTHY, {"method": "barlow_twins"}),
    "moco": Kind(HEALTHY, {"method": "moco"}),
    "simclr, no stop to weights": Kind(("not learning",), {"method": "simclr", "lr": 1e-9}),
    "simsiam without stop-gradient": Kind(COLLAPSED, {"method": "simsiam"}, breaks=gradient_both_ways),
    "vicreg without variance": Kind(COLLAPSED, {"method": "vicreg", "variance": 0.0, "covariance": 0.0}),
    "simclr, tau 100": Kind(BROKEN, {"method": "simclr", "temperature": 100.0, **SGD}),
    "simclr, tau 0.001": Kind(BROKEN, {"method": "simclr", "temperature": 0.001, **SGD}),
    "simclr, rate 400 times": Kind(BROKEN, {"method": "simclr", **SGD, "lr": 20.0}),
    "simclr, views alike": Kind(("views too easy",), {"method": "simclr", **SAME}),
    "simclr, views apart": Kind(("views too hard",), {"method": "simclr", **APART}),
    "simclr, 160 images": Kind(
        ("over-fitting",), {"method": "simclr", "batch_size": 64}, images=160, longer=4
    ),
}
ON_PHOTOGRAPHS = {
    f"{name}, photographs": replace(KINDS[name], photographs=True)
    for name in (
        "simclr",
        "vicreg",
        "moco",
        "simclr, no stop to weights",
        "simsiam without stop-gradient",
        "vicreg without variance",
        "simclr, tau 100",
        "simclr, rate 400 times",
        "simclr, views alike",
        "simclr, views apart",
    )
}
"""The same on photographs; there is no telling yet of what learns slowly (BYOL, SimSiam, Barlow Twins)."""
SHORT_RUNS = {
    "simclr, 60 steps": Kind(EARLY, {"method": "simclr"}, longer=0.2),
    "simclr, 24 steps, photographs": Kind(EARLY, {"method": "simclr"}, longer=0.08, photographs=True),
    "simclr, 60 steps, photographs": Kind(EARLY, {"method": "simclr"}, longer=0.2, photographs=True),
    "byol, 60 steps, photographs": Kind(EARLY, {"method": "byol"}, longer=0.2, photographs=True),
    "vicreg, 60 steps, photographs": Kind(EARLY, {"method": "vicreg"}, longer=0.2, photographs=True),
    "simclr, tau 0.001, 60 steps, photographs": Kind(
        (*BROKEN, *EARLY), {"method": "simclr", "temperature": 0.001, **SGD}, longer=0.2, photographs=True
    ),
}
"""Runs so short that neither collapse nor a lack of learning can be told from a start."""


def make(kind: Kind, name: str, data: Any, out: Path, seed: int, steps: int) -> dict[str, Any]:
    """Train one run, or read what it was."""
    import nearfar
    from nearfar.core.errors import NearfarError

    note = out / f"{name.replace(' ', '-').replace(',', '')}-{seed}.json"
    if note.exists():
        found: dict[str, Any] = json.loads(note.read_text())
        return found
    folder, source = note.with_suffix(""), data
    if kind.images:
        from nearfar.data.folders import find

        names = find(Path(data))
        few = names[seed % 7 :: max(1, len(names) // kind.images)][: kind.images]
        source = out / f"few-{seed}.txt"
        source.write_text("".join(f"{Path(data).resolve() / item}\n" for item in few))
    try:
        with kind.breaks() if kind.breaks else _nothing():
            settings = {
                "steps": round(steps * kind.longer),
                "batch_size": 128,
                "seed": seed,
                "holdout": 0.45 if kind.images else 0.02,
                **kind.settings,
            }
            run = nearfar.pretrain(source, out=folder, **settings)
        made = {"lines": run.health(), "log": run.log()}
    except NearfarError as error:
        made = {"failed": str(error)}
    made |= {"kind": name, "seed": seed}
    note.write_text(json.dumps(made))
    return made


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def page(rows: list[tuple[str, int, str, bool]], data: str, steps: int) -> str:
    """Write what was found as a page: by kind, the verdicts that are right and those that were given."""
    kinds = KINDS | ON_PHOTOGRAPHS | SHORT_RUNS
    hits = sum(right for *_, right in rows)
    seeds = sorted({seed for _, seed, *_ in rows})
    lines = [
        "# How often the verdict is right",
        "",
        f"{hits} of {len(rows)} runs were judged rightly: each kind once with every seed of "
        f"{', '.join(map(str, seeds))}, {steps} steps of 128 images of {data}. No threshold was set by "
        "these seeds; some kinds run longer or shorter. Made by `python -m benchmarks.verdicts`, where "
        "what is right for a kind stood before.",
        "",
        "| run | right is | the verdicts given | right |",
        "|---|---|---|---|",
    ]
    for name in dict.fromkeys(name for name, *_ in rows):
        own = [(said, right) for kind, _, said, right in rows if kind == name]
        right = kinds[name].right if set(kinds[name].right) != set(HEALTHY) else ("healthy, in any degree",)
        given = ", ".join(said for said, _ in own)
        lines.append(
            f"| {name} | {' or '.join(right)} | {given} | {sum(ok for _, ok in own)} of {len(own)} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    """Make the runs of the seeds asked for, and tell how each is judged."""
    from nearfar.health.verdict import judge

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--photographs")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--page", type=Path)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    kinds = KINDS | (ON_PHOTOGRAPHS | SHORT_RUNS if given.photographs else {})
    rows = []
    for seed in given.seeds:
        for name in given.only or kinds:
            data = given.photographs if kinds[name].photographs else given.data
            made = make(kinds[name], name, data, given.out, seed, given.steps)
            found = None if "failed" in made else judge(made["lines"])
            said = "broke down" if found is None else found.name
            right = said in kinds[name].right
            rows.append((name, seed, said, right))
            print(f"{'right' if right else 'WRONG':6}{name:34}seed {seed:<5}{said}", flush=True)
    print(f"{sum(right for *_, right in rows)} of {len(rows)} verdicts are right")
    if given.page:
        data = " and ".join("/".join(Path(one).parts[-2:]) for one in (given.data, given.photographs) if one)
        given.page.write_text(page(rows, data, given.steps))


if __name__ == "__main__":
    sys.exit(main())

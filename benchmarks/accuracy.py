"""The main job: k-NN accuracy after some minutes of training, ours compared with lightly's published recipe.

Both train the same encoder on the same images, cores and minutes, seeds 0, 1, ...; ours with `pretrain`'s
own recipe for a CPU, lightly with its CIFAR-10 benchmark's: SimCLRTransform without blur, batch 128,
SGD .06, momentum .9, decay 5e-4, cosine, NTXentLoss with tau .5, float32, DataLoader workers for every
core; its schedule follows the clock, so that it ends in time. (Its ImageNet statistics are left out, since
a batch norm follows the first layer.) Both encoders then go through the same `nearfar.evaluate`, which
chooses k and the temperature on held-out training images and reads the test images once a run; fixed
k = 20 with temperature 0.1 is given as well. The same network trained with all the labels, by our own
`supervised` in the same minutes, is the ceiling. Beside them stand raw pixels, an untrained network and,
with the first seed, a colour histogram and k-means patches (Coates et al. 2011).
"""

from __future__ import annotations

import json
import math
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from . import measure
from .measure import Spread
from .scoreboard import Asked
from .table import Bar, Row, Section

BARS = {"knn": 0.70, "linear": 0.74}
K, TEMPERATURE = 20, 0.1
SIDES = {"nearfar": "simclr", "lightly": "", "supervised": "supervised"}  # our method, if it is ours


def ours(train: Path, out: Path, minutes: float, seed: int, method: str) -> dict[str, Any]:
    """Train with our defaults; give the pace."""
    import nearfar

    run = nearfar.pretrain(train, out=out, minutes=minutes, seed=seed, method=method)
    last = run.log()[-1]
    return {"pace": last["images_per_second"], "epochs": last["epoch"], "seconds": last["seconds"]}


def lightly(
    train: Path, out: Path, minutes: float, seed: int, encoder: str, batch: int = 128
) -> dict[str, Any]:
    """Train with lightly's recipe for as many minutes, and write the encoder as a run that we can read."""
    from lightly.data import LightlyDataset
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead
    from lightly.transforms import SimCLRTransform
    from torch.utils.data import DataLoader

    from nearfar import models
    from nearfar.images.views import Preprocess
    from nearfar.training.run import export

    torch.manual_seed(seed)
    torch.set_num_threads(measure.cores())
    transform = SimCLRTransform(input_size=32, cj_strength=0.5, gaussian_blur=0.0, normalize=None)
    data = LightlyDataset(str(train), transform=transform)
    loader: Any = DataLoader(
        data, batch, shuffle=True, drop_last=True, num_workers=measure.cores(), persistent_workers=True
    )
    f = models.encoder(encoder, size=32, seed=seed)
    head = SimCLRProjectionHead(f.dim, 512, 128)
    weights = [*f.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(weights, lr=0.06, momentum=0.9, weight_decay=5e-4)
    criterion, budget = NTXentLoss(), 60.0 * minutes
    began, steps, progress = time.monotonic(), 0, 0.0
    while progress < 1.0:
        for (x0, x1), *_ in loader:
            progress = (time.monotonic() - began) / budget
            if progress >= 1.0:
                break
            for group in optimizer.param_groups:
                group["lr"] = 0.06 * 0.5 * (1.0 + math.cos(math.pi * progress))
            loss = criterion(head(f(x0)), head(f(x1)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps += 1
    seconds = time.monotonic() - began
    out.mkdir(parents=True, exist_ok=True)
    export(out, f, Preprocess.of(32, "bilinear"), {"by": "lightly's recipe", "steps": steps, "seed": seed})
    seen = steps * batch
    return {"pace": seen / seconds, "epochs": seen / len(data), "seconds": seconds}


def fixed(folder: Path, train: Path, test: Path) -> float:
    """Give the accuracy of weighted cosine k-NN with k and temperature fixed beforehand."""
    from nearfar.data import cache
    from nearfar.data.sources import open_source
    from nearfar.features.extract import features
    from nearfar.features.knn import knn_votes, top_k
    from nearfar.training.run import load
    from nearfar.training.settings import Training

    run, found = load(folder), []
    for part in (train, test):
        store: Any = cache.load(
            open_source(str(part), labels=True),
            short_side=run.preprocess.decode_side,
            max_pixels=Training.max_pixels,
            max_bad=Training.max_bad,
            threads=measure.cores(),
        )
        vectors = torch.from_numpy(features(run.encoder, store, run.preprocess))
        found.append((vectors, torch.from_numpy(store.labels), store.classes))
    (base, labels, classes), (asked, truth, _) = found
    similarity, index = top_k(asked, base, min(K, len(base)))
    votes = knn_votes(similarity, labels[index], len(classes), TEMPERATURE)
    return float((votes.argmax(dim=1) == truth).float().mean())


def evaluated(who: str, folder: Path, wanted: Asked, seed: int) -> dict[str, Any]:
    """Measure a run, or read what was measured before from the file next to its folder."""
    import nearfar

    assert wanted.data is not None
    train, test = wanted.data / "train", wanted.data / "test"
    result = folder.parent / f"{folder.name}.json"
    scores: dict[str, Any] = json.loads(result.read_text()) if result.exists() else {}
    if "knn" not in scores:
        beside = ("pixels", "untrained", *(() if seed else ("colours", "patches")))
        beside = beside if who == "nearfar" else ()  # they are the same for all
        scores |= nearfar.evaluate(folder, train=train, test=test, seed=seed, baselines=beside).to_json()
    if "fixed" not in scores:
        scores["fixed"] = fixed(folder, train, test)
        result.write_text(json.dumps(scores))
    return scores


def child(who: str, train: str, out: str, minutes: float, seed: int, encoder: str) -> dict[str, Any]:
    """Train one side in this process."""
    if SIDES[who]:
        return ours(Path(train), Path(out), minutes, seed, SIDES[who])
    return lightly(Path(train), Path(out), minutes, seed, encoder)


def trained(who: str, folder: Path, wanted: Asked, seed: int, encoder: str) -> dict[str, Any]:
    """Train one run in a process of its own, unless its folder holds it; give its pace."""
    note = folder.parent / f"{folder.name}-pace.json"
    if not (folder / "encoder.json").exists() or (not SIDES[who] and not note.exists()):
        given = {"train": str(wanted.data and wanted.data / "train"), "out": str(folder.resolve())}
        limit = 60.0 * wanted.minutes * 2 + 600
        pace = measure.fresh(
            "accuracy", timeout=limit, who=who, minutes=wanted.minutes, seed=seed, encoder=encoder, **given
        )
        note.write_text(json.dumps(pace))
    if not note.exists():  # a run of ours that was there before
        from nearfar.training.run import load

        last = load(folder).log()[-1]
        keys = {"pace": "images_per_second", "epochs": "epoch", "seconds": "seconds"}
        note.write_text(json.dumps({mine: last[theirs] for mine, theirs in keys.items()}))
    found: dict[str, Any] = json.loads(note.read_text())
    return found


def rows(
    scores: dict[str, list[dict[str, Any]]], paces: dict[str, list[dict[str, Any]]], case: str
) -> list[Row]:
    """Turn the scores of every side's seeds into rows: in per cent, gains as ratios of accuracies."""
    ways = {
        "k-NN, k chosen": lambda s: s["knn"]["encoder"]["accuracy"],
        f"k-NN, k = {K}": lambda s: s["fixed"],
        "linear": lambda s: s["linear"]["encoder"]["accuracy"],
        "k-NN, raw pixels": lambda s: s["knn"]["pixels"]["accuracy"],
        "k-NN, untrained": lambda s: s["knn"]["untrained"]["accuracy"],
        **{
            f"{way}, {title}": lambda s, key=key, name=name: s[key][name]["accuracy"]
            for name, title in (("colours", "colour histogram"), ("patches", "k-means patches"))
            for key, way in (("knn", "k-NN"), ("linear", "linear"))
        },
    }
    made = []
    for way, read in ways.items():
        mine: list[float] = []
        for who, found in scores.items():
            values = []
            for score in found:
                with suppress(KeyError):  # baselines are not measured again and again
                    values.append(100 * read(score))
            mine = mine or values
            if not values:
                continue
            paired = who != "nearfar" and len(values) == len(mine)
            gain = measure.gain(mine, values, more_is_better=True) if paired else None
            pace = ", ".join(f"{p['pace']:,.0f}" for p in paces[who])
            epochs = ", ".join(f"{p['epochs']:.1f}" for p in paces[who])
            note = f"{pace} images/s; {epochs} epochs" if "chosen" in way else ""
            made.append(Row(f"{case}, {way}", who, Spread.of(values), "%", gain, note))
    return made


def run(wanted: Asked) -> Section:
    """Train, evaluate and compare, seed by seed, the sides in turns."""
    section = Section((__doc__ or "").partition("\n\n")[2].strip().replace("\n", " "))
    if wanted.data is None:
        section.notes.append("Not measured: no --data was given.")
        return section
    scores: dict[str, list[dict[str, Any]]] = {who: [] for who in SIDES}
    paces: dict[str, list[dict[str, Any]]] = {who: [] for who in SIDES}
    wanted.out.mkdir(parents=True, exist_ok=True)
    encoder = "resnet8"
    for seed in range(wanted.seeds):
        for who in scores:
            prefix = "" if who == "nearfar" else f"{who}-"
            folder = wanted.out / f"{prefix}{wanted.minutes:g}-minutes-seed-{seed}"
            try:
                paces[who].append(trained(who, folder, wanted, seed, encoder))
                scores[who].append(evaluated(who, folder, wanted, seed))
            except (measure.Failed, ImportError) as failed:
                section.notes.append(f"{who}, seed {seed}: {measure.reason(failed)}")
            if who == "nearfar" and scores[who]:
                encoder = scores[who][0]["encoder"]["name"]
    held = "one core" if measure.cores() == 1 else f"{measure.cores()} cores"
    case = f"{wanted.minutes:g} minutes of {held}, {encoder}"
    section.rows = rows({who: found for who, found in scores.items() if found}, paces, case)
    if scores["nearfar"]:
        for key, least in BARS.items():
            best = Spread.of(score[key]["encoder"]["accuracy"] for score in scores["nearfar"])
            told = f"{100 * best.low:.1f} - {100 * best.middle:.1f} - {100 * best.high:.1f} %"
            what = {"knn": "k-NN, k chosen", "linear": "linear"}[key]
            section.bars.append(
                Bar(f"{case}: {what}, at least {100 * least:.0f} %", best.middle >= least, told)
            )
    return section

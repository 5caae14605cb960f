"""Which settings decide: one setting changed at a time, on several data sets, beside the spread of seeds.

    python -m benchmarks.settings_decide /data/trash/train /data/flowers/train --out runs/settings

Each folder holds training images, a folder a class. The last quarter of each class is held out, since files
that follow each other often show one thing. SimCLR learns from the rest, reduced to 36 px, in short runs at
32 px, and k-NN (k = 10) finds the classes of the held-out images. Prints Markdown and writes `--plot`.
What is there already is read, so that it goes on where it stopped; `--minutes` ends it after a time.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

SIDE, SHORT, BATCH, STEPS, EACH, HELD = 32, 36, 128, 120, 400, 4  # EACH: images a class; HELD: one in so many
SEEDS = 3

SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "colours: the other choice": {"colour": ""},
    "crops from 0.08 of the area, not 0.2": {"crop_min": 0.08},
    "learning rate 0.005, not 0.02": {"lr": 0.005},
    "temperature 0.3, not 0.1": {"temperature": 0.3},
    "crops from 0.5 of the area": {"crop_min": 0.5},
    "learning rate 0.08": {"lr": 0.08},
    "untrained": {"steps": 0},
    "head of one layer, not two": {"head": (128,)},
    "head twice as wide": {"head": (512, 128)},
    "weight decay 0.1, not 0.01": {"weight_decay": 0.1},
    "blur in half of the views": {"blur": 0.5},
    "batch 64, as many images": {"batch_size": 64, "steps": 2 * STEPS},
    "batch 256, as many images": {"batch_size": 256, "steps": STEPS // 2},
}
OTHER = {"keep": "change", "change": "keep"}  # of --colour


def reduced(folder: Path, out: Path) -> Path:
    """Write small copies of the images: those to learn from in `learn`, the others in `held`."""
    from PIL import Image

    if (out / "whole").exists():
        return out
    shutil.rmtree(out, ignore_errors=True)
    for label in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = sorted(label.iterdir(), key=lambda path: (len(path.name), path.name))[:EACH]
        for place, file in enumerate(files):
            part = "held" if place >= len(files) - len(files) // HELD else "learn"
            (out / part / label.name).mkdir(parents=True, exist_ok=True)
            with Image.open(file) as image:
                share = max(1.0, min(image.size) / SHORT)
                size = [max(SHORT, round(pixels / share)) if share > 1 else pixels for pixels in image.size]
                small = image.convert("RGB").resize((size[0], size[1]), Image.Resampling.LANCZOS)
            small.save(out / part / label.name / f"{file.stem}.png")
    (out / "whole").touch()
    return out


def knn(net: Any, preprocess: Any, data: Path) -> float:
    """Find the classes of the held-out images by those learnt from: accuracy in %."""
    import torch

    from nearfar.data.cache import load
    from nearfar.data.open import open_data
    from nearfar.features import knn
    from nearfar.features.extract import features

    found = []
    for part in ("learn", "held"):
        source = open_data(data / part, labels=True)
        images = load(source, short_side=None, max_pixels=10**6, max_bad=0, threads=1)
        found.append((torch.from_numpy(features(net, images, preprocess)), torch.from_numpy(images.labels)))
    (base, own), (asked, truth) = found
    cosine, who = knn.top_k(asked, base, 10)
    votes = knn.knn_votes(cosine, own[who], int(own.max()) + 1, 0.07)
    return 100 * float((votes.argmax(1) == truth).double().mean())


def measured(data: Path, out: Path, name: str, seed: int, colour: str) -> float:
    """Train and measure one setting with one seed.

    Args:
        data: from `reduced`.
        out: the run's folder.
        name: in `SETTINGS`.
        seed: of the run.
        colour: what the default views do with colours.

    Returns:
        Accuracy in %.
    """
    import nearfar

    how: dict[str, Any] = {
        "encoder": "resnet8",
        "stem": "standard",
        "image_size": SIDE,
        "batch_size": BATCH,
        "steps": STEPS,
        "colour": colour,
        "precision": "bfloat16",
        "threads": 1,
        "workers": 1,
        "holdout": 0.0,
        "health_checks": 0,
        "seed": seed,
    } | SETTINGS[name]
    how["colour"] = how["colour"] or OTHER[colour]
    bare = how["steps"] == 0
    run = nearfar.pretrain(data / "learn", out=out, **how | {"steps": 1 if bare else how["steps"]})
    net = run.encoder
    if bare:
        from nearfar.data.cache import load
        from nearfar.data.open import open_data
        from nearfar.features.probes import untrained

        images = load(open_data(data / "learn"), short_side=None, max_pixels=10**6, max_bad=0, threads=1)
        net = untrained(net, images, run.preprocess, seed, "cpu")
    return knn(net, run.preprocess, data)


def default_colour(data: Path) -> str:
    """Ask what the recipe does with the colours of these images: change or keep them."""
    from nearfar.data.open import open_data
    from nearfar.training.colour_choice import choose_colour

    learn = data / "learn"
    return (
        "keep"
        if choose_colour(learn, open_data(learn), limit=10**6, threads=1).colour == "keep"
        else "change"
    )


Figures = dict[str, list[float]]  # setting -> accuracy by seed


def effects(figures: Figures) -> tuple[float, float, dict[str, tuple[float, float]]]:
    """Compare settings with the default.

    Returns:
        The default's mean; the standard deviation between seeds, of all settings together; and for each
        setting measured with at least two seeds its difference to the default and twice its standard error.
    """
    values = {name: given for name, given in figures.items() if len(given) > 1}
    own = values["default"]
    squares = sum(float(np.var(given)) * len(given) for given in values.values())
    spread = (squares / sum(len(given) - 1 for given in values.values())) ** 0.5
    found = {
        name: (
            float(np.mean(given) - np.mean(own)),
            2 * spread * (1 / len(given) + 1 / len(own)) ** 0.5,
        )
        for name, given in values.items()
        if name != "default"
    }
    return float(np.mean(own)), spread, found


def table(figures: dict[str, Figures]) -> str:
    """Write Markdown: points of k-NN above the default, bold where they are beyond noise."""
    made = {name: effects(each) for name, each in figures.items()}
    lines = [f"| | {' | '.join(made)} |", f"|---|{'---|' * len(made)}"]
    lines.append(f"| default, k-NN in % | {' | '.join(f'{own:.1f}' for own, _, _ in made.values())} |")
    spreads = " | ".join(f"{spread:.1f}" for _, spread, _ in made.values())
    lines.append(f"| standard deviation between seeds | {spreads} |")
    for name in SETTINGS:
        if name == "default" or not any(name in found for _, _, found in made.values()):
            continue
        cells = []
        for _, _, found in made.values():
            if name not in found:
                cells.append("-")
                continue
            gain, noise = found[name]
            cells.append(f"**{gain:+.1f}**" if abs(gain) > noise else f"{gain:+.1f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(figures: dict[str, Figures], path: Path) -> None:
    """Draw each seed of each setting beside the default, with a band of twice the standard error."""
    from matplotlib.figure import Figure

    known = {name for each in figures.values() for name in effects(each)[2]}
    names = [name for name in SETTINGS if name in known][::-1]
    figure = Figure(figsize=(10, 1 + 0.28 * len(names)), layout="constrained", dpi=80)
    axes = figure.subplots(1, len(figures), sharey=True, squeeze=False)[0]
    for at, (title, each) in zip(axes, figures.items(), strict=True):
        own, _, found = effects(each)
        noise = max((value for _, value in found.values()), default=0.0)
        at.axvspan(-noise, noise, color="#dddddd", linewidth=0)
        at.axvline(0, color="#888888", linewidth=1)
        for row, name in enumerate(names):
            if name in found:
                gain = found[name][0]
                colour = "#0072b2" if abs(gain) > found[name][1] else "#888888"
                dots = [value - own for value in each[name]]
                at.plot(dots, [row] * len(dots), "o", color=colour, markersize=3, alpha=0.7)
                at.plot(gain, row, "D", color=colour, markersize=6)
        at.set_title(f"{title}: default {own:.0f} %", loc="left", fontsize=10)
        at.spines[["top", "right"]].set_visible(False)
        at.grid(axis="y", alpha=0.3)
    axes[0].set_yticks(range(len(names)), names, fontsize=8)
    axes[0].set_xlabel("points of k-NN above the default")
    figure.savefig(path)


def main() -> None:
    """Measure what is not there yet, seed by seed, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="training images, a folder a class")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no run after so many minutes")
    parser.add_argument("--plot", type=Path, help="a .png file")
    asked = parser.parse_args()
    began, kept = time.monotonic(), asked.out / "figures.json"
    asked.out.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Figures] = json.loads(kept.read_text()) if kept.exists() else {}
    colours: dict[str, str] = {}
    for setting in SETTINGS:
        for seed in range(SEEDS):
            for folder in asked.folders:
                title = folder.parent.name if folder.name == "train" else folder.name
                known = figures.setdefault(title, {}).setdefault(setting, [])
                if len(known) > seed or time.monotonic() - began > 60 * asked.minutes:
                    continue
                data = reduced(folder, asked.out / title)
                if title not in colours:
                    colours[title] = default_colour(data)
                    print(f"{title}: colours are {colours[title]}", flush=True)
                place = data / f"{[*SETTINGS].index(setting)}-{seed}"
                known.append(measured(data, place, setting, seed, colours[title]))
                print(f"{title}, {setting}, seed {seed}: {known[-1]:.1f}", flush=True)
                kept.write_text(json.dumps(figures, indent=1))
    if all(len(each["default"]) > 1 for each in figures.values()):
        print(table(figures))
        if asked.plot:
            plot(figures, asked.plot)


if __name__ == "__main__":
    main()

"""Measures texts: STS-B beside TF-IDF, and questions that look for their passage beside BM25.

    python -m benchmarks.text TEXTS [--out FOLDER] [--epochs 8] [--seeds 3]

TEXTS holds the folders sts/data (stsb-en-{train,dev,test}.csv, without a heading), xquad (xquad.en.json) and
sentences/packages/corpora (zips of plain text). Runs start from random weights, and see no sentence of a test
pair. Prints the tables that benchmarks/text.md keeps.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import time
import zipfile
from pathlib import Path

import numpy as np

import nearfar
from nearfar.core import rng

TOKENS = 256  # of a text: all of nearly every passage
ALIKE = 4.0  # score from 0 to 5 from which on two sentences of STS-B's train pairs count as a pair


def sentences(texts: Path) -> list[str]:
    """Read the plain corpora, a sentence each."""
    found = []
    for path in sorted((texts / "sentences/packages/corpora").glob("*.zip")):
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                if name.endswith("/") or "README" in name:
                    continue
                plain = archive.read(name).decode("latin-1")
                lines = plain.splitlines()
                if path.stem in ("inaugural", "state_union"):  # lines that are broken within sentences
                    lines = [" ".join(part.split()) for part in re.split(r"\n\s*\n", plain)]
                for line in lines:
                    whole = path.stem in ("movie_reviews", "sentence_polarity", "subjectivity")
                    found += [line] if whole else re.split(r"(?<=[.!?])\s+", line)
    return [text for text in (one.strip() for one in found) if text]


def pairs(texts: Path, part: str) -> list[list[str]]:
    """Read one part of STS-B: two sentences and their score from 0 to 5."""
    with open(texts / f"sts/data/stsb-en-{part}.csv", encoding="utf-8", newline="") as file:
        return [row[:3] for row in csv.reader(file)]


def write(path: Path, heading: list[str], rows: list[list[str]]) -> Path:
    """Write a table."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(heading)
        table.writerows(rows)
    return path


def questions(texts: Path, folder: Path) -> None:
    """Write the questions of XQuAD in two halves, by paragraph: one to choose on, one to test."""
    held = json.loads((texts / "xquad/xquad.en.json").read_text(encoding="utf-8"))["data"]
    paragraphs = [part for article in held for part in article["paragraphs"]]
    order = rng.permutation(rng.fold(0, "questions"), len(paragraphs))
    for name, half in (("dev", order[::2]), ("test", order[1::2]), ("all", np.sort(order))):
        rows = [[one["question"], paragraphs[at]["context"]] for at in half for one in paragraphs[at]["qas"]]
        write(folder / f"questions-{name}.csv", ["question", "passage"], rows)


def main() -> None:
    """Train, and print every table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/text"))
    parser.add_argument("--epochs", type=float, default=8.0)
    parser.add_argument("--seeds", type=int, default=3)
    words = parser.parse_args()
    folder: Path = words.out
    folder.mkdir(parents=True, exist_ok=True)
    corpus = sentences(words.texts)
    (folder / "corpus.txt").write_text("\n".join(corpus), encoding="utf-8")
    for part in ("dev", "test"):
        write(folder / f"sts-{part}.csv", ["sentence1", "sentence2", "score"], pairs(words.texts, part))
    read_later = {text for row in pairs(words.texts, "test") for text in row[:2]}
    alike = [
        row[:2]
        for row in pairs(words.texts, "train")
        if float(row[2]) >= ALIKE and not read_later & {*row[:2]}
    ]
    write(folder / "alike.csv", ["one", "other"], alike)
    questions(words.texts, folder)
    print(f"{len(corpus):,} sentences of the corpora; {len(alike):,} pairs of STS-B's train part")
    how = {"device": "cpu", "health_checks": 4, "precision": "float32"}
    began = time.process_time()
    for name, settings in (
        ("untrained-tokens", {"steps": 1, "lr": 0.0}),
        ("simcse", {"epochs": words.epochs / 8}),
    ):
        nearfar.pretrain(
            folder / "corpus.txt",
            out=folder / name,
            modality="text",
            method="simcse",
            batch_size=64,
            image_size=TOKENS,
            **how,
            **settings,
        )
        print(f"\n== {name}, {time.process_time() - began:.0f} s of processor time so far\n")
        report(folder / name, folder)
    for seed in range(words.seeds):
        out = folder / f"pairs-{seed}"
        nearfar.pretrain(
            f"{folder}/alike.csv:one,other",
            out=out,
            method="multiple_negatives",
            weights=str(folder / "untrained-tokens"),
            epochs=words.epochs,
            batch_size=128,
            lr=1e-2,
            seed=seed,
            **how,
        )
        print(f"\n== pairs, seed {seed}, {time.process_time() - began:.0f} s of processor time so far\n")
        report(out, folder)


def report(run: Path, folder: Path) -> None:
    """Print both tables of a run."""
    dev, test = (folder / f"sts-{part}.csv" for part in ("dev", "test"))
    print(nearfar.sts(run, test, dev=dev, texts=folder / "corpus.txt"), end="\n\n")
    dev, test = (folder / f"questions-{part}.csv" for part in ("dev", "test"))
    print(nearfar.passages(run, test, dev=dev, among=folder / "questions-all.csv"), end="\n\n")


if __name__ == "__main__":
    main()

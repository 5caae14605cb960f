"""The page of an encoder that was not trained here: its card, its evaluation, and how it is used."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

from ..core.config import to_json
from ..core.version import __version__
from ..data.modalities import modality_of
from ..features.extract import fingerprint
from ..training.run import Run
from . import cards, scoring, summary
from .blocks import Blocks, Command, Note, Section, TableBlock
from .sample import noun_of


@dataclass(frozen=True)
class OthersEncoder:
    """An encoder without a training here: a known one, an adopted one, or several together.

    Attributes:
        name: what the report calls it.
        run: the encoder.
        scores: its evaluation, if there is one.
    """

    name: str
    run: Run
    scores: scoring.Scores | None

    @property
    def noun(self) -> str:
        """The word for what it encodes, such as "images"."""
        return noun_of(modality_of(self.run.preprocess))


def lede(one: OthersEncoder) -> str:
    """Say what the page is about.

    Args:
        one: the encoder.
    """
    return f"{one.run.encoder.name}, trained elsewhere, licence {one.run.facts()['licence']}"


def sentence(one: OthersEncoder) -> str:
    """Sum it up in one sentence, for who reads no further.

    Args:
        one: the encoder.
    """
    return summary.sentence("other data", one.noun, one.scores, None)


def answers(one: OthersEncoder) -> list[tuple[str, str, str]]:
    """Answer the questions that a reader comes with: question, answer, section.

    Args:
        one: the encoder.
    """
    run, facts, unit = one.run, one.run.facts(), modality_of(one.run.preprocess).unit
    what = (
        f"A {run.encoder.name} of {facts['parameters']:,} parameters that turns {one.noun} of "
        f"{run.preprocess.size} {unit} into {run.encoder.dim:,} numbers."
    )
    licence = facts["licence"]
    may = f"Its weights have the licence {licence}."
    if licence == "unknown":
        may = "The licence of its weights is not recorded; ask who made them."
    told = [
        ("What is it?", what, "card"),
        ("May I use it?", may, "card"),
        ("Is it good?", cards.good(one.scores, one.noun), "evaluation"),
    ]
    if one.scores:
        told.append(("Where does it fail?", cards.fails(one.scores, one.noun), "evaluation"))
    return [*told, (summary.LIMITS, summary.limits(one.scores, None, 0, one.noun, runs=0), "evaluation")]


def sections(one: OthersEncoder, out: str) -> list[Section]:
    """Make every section.

    Args:
        one: the encoder.
        out: where the report goes, for the command that repeats it.
    """
    lead = "The network, where its weights come from, and how its input is prepared."
    tested = "Accuracy with labels: the frozen encoder and its baselines."
    return [
        Section("card", "The encoder", lead, _card(one)),
        Section("evaluation", "Evaluation", tested, _evaluation(one)),
        Section(
            "provenance", "Commands", "How it is used, and how this page is written.", _commands(one, out)
        ),
    ]


def _card(one: OthersEncoder) -> Blocks:
    run, facts = one.run, one.run.facts()
    kind = modality_of(run.preprocess)
    network = [
        ("network", run.encoder.name),
        ("parameters", f"{facts['parameters']:,}"),
        ("features", f"{run.encoder.dim:,} numbers for each of the {kind.noun}"),
        ("input", f"{run.preprocess.size} {kind.unit}"),
        ("mean of the input, deviation", f"{_listed(run.encoder.mean)}; {_listed(run.encoder.std)}"),
    ]
    of = [str(item.get("name")) for item in run.provenance.get("of", ())]
    origin = [
        ("weights from", " and ".join(of) or str(run.provenance.get("source") or "not recorded")),
        ("licence of the weights", facts["licence"]),
        ("SHA-256 of the weights", fingerprint(run.encoder)),
        ("made by nearfar", f"{run.provenance.get('nearfar', 'not recorded')} (this report: {__version__})"),
    ]
    prepared = [
        (name.replace("_", " "), cards.plain(value)) for name, value in to_json(run.preprocess).items()
    ]
    return [
        TableBlock("The network", (), network),
        TableBlock("Where it comes from", (), origin),
        TableBlock("How its input is prepared", (), prepared),
    ]


def _listed(numbers: Any) -> str:
    return " ".join(f"{number:.3g}" for number in numbers)


def _evaluation(one: OthersEncoder) -> Blocks:
    if one.scores:
        return scoring.blocks({one.name: one.scores}, one.noun)
    words = ["nearfar", "report", one.run.name, "--train", "LABELLED", "--test", "LABELLED"]
    return [Note(f"{one.name} has not been evaluated on labelled {one.noun} yet.", shlex.join(words))]


def _commands(one: OthersEncoder, out: str) -> Blocks:
    here = one.run.name
    listed = {
        f"Evaluate on labelled {one.noun}, beside a run of your own.": [
            *("nearfar", "evaluate", "RUN", here, "--train", "LABELLED", "--test", "LABELLED")
        ],
        f"Embed {one.noun}.": ["nearfar", "embed", here, "DATA", "--out", "vectors.parquet"],
        "Write this page.": ["nearfar", "report", here, "--out", out],
    }
    return [Command(text, shlex.join(words)) for text, words in listed.items()]

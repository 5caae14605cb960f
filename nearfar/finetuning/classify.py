"""Image classification: one class an image or several labels, by a linear layer on the encoder's vectors."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..core.config import setting
from ..core.errors import NearfarError, fitting
from ..core.shapes import check_shape
from ..core.text import counted
from ..data.dataset import Subset, class_numbers
from ..data.loader import DataLoader
from ..data.modalities import modality, modality_of
from ..data.sampler import ClassBalanced
from ..features.extract import Vectors, features
from ..models import Encoder
from ..models.every_scale import as_trained
from ..training.run import Run
from . import calibrate, class_data, class_figures, class_network, linear_fit, vectors
from .class_answers import ClassAnswers
from .class_network import Classifier
from .neck import Neck, neck_of
from .soft_labels import NONE as UNLABELLED
from .soft_labels import Joined, TaskTeacher, open_teacher
from .task_types import (
    Figures,
    HeadExport,
    Labelled,
    Mistake,
    Rows,
    Setup,
    Solved,
    TaskNetwork,
    TaskRecipe,
    Where,
)
from .trainer import RECIPES, SCALE_IMAGES, adamw, batch_images, lrs_of, takes_adamw, training_steps

FEW = 20  # images of the usual class, below which the encoder stays frozen and all labels are fitted
QUICK_SIDE = 96  # side of images up to which a CPU trains an encoder in minutes
WARMUP = 0.1  # share of the steps over which the rate rises


@dataclass(frozen=True)
class Config:
    """The settings of a classification."""

    multi_label: bool = setting(
        False, "an image has several labels, or none: from a .csv with the columns path and labels"
    )
    balance: str = setting(
        "none",
        "what evens out classes of unlike size: weights in the loss, or batches of all classes",
        choices=("none", "weights", "sampling"),
    )
    from_head: int = setting(
        0,
        "hidden layers of the head g, which the run kept, that stay between encoder and classifier",
        low=0,
        source="Chen et al. 2020b, SimCLR v2",
    )
    teacher: str | None = setting(
        None,
        "run of nearfar finetune whose answers for --unlabelled images are learnt, beside the labels",
        source="Chen et al. 2020b, SimCLR v2",
    )
    unlabelled: str | None = setting(None, "images that the teacher is asked about")
    teacher_temperature: float = setting(
        1.0,
        "temperature of the teacher's and the student's answers; low ones take its likeliest class",
        low=0.01,
        high=100.0,
        source="Chen et al. 2020b: 0.1 for 1 % of labels, 1 for 10 %",
    )


@dataclass(frozen=True)
class Predicting:
    """The settings of a prediction of classes."""

    reject: float = setting(
        0.0, "share of images of these classes that may be called unknown; 0: never", low=0.0, high=0.99
    )
    all_classes: bool = setting(False, "write the probability of every class, a column each")


class Classification(ClassAnswers):
    """The task of `--task classify`; see `task.Task`."""

    name: ClassVar[str] = "classify"
    trains_frozen: ClassVar[bool] = False
    masks: ClassVar[bool] = False
    document: ClassVar[None] = None
    modalities: ClassVar[tuple[str, ...] | None] = None  # a head on vectors fits every kind

    def __init__(self, config: Config = Config()) -> None:
        """Start without classes; `read` or `restore` gives them."""
        self.config, self.predicting = config, Predicting()
        self.neck: Neck | None = None
        self.keep: Path | None = None  # where vectors are kept until the run is finished
        self.teacher: TaskTeacher | None = None
        self.least: float | None = None  # probability below which an image is none of these
        self.classes: tuple[str, ...] = ()
        self.temperature, self.known = 1.0, np.empty(0)
        self.apart = True  # whether nothing was fitted to or chosen on the images of `known`
        self._crossed: tuple[Labelled, npt.NDArray[np.float64]] | None = None
        self._vectors: dict[tuple[int, str], tuple[nn.Module, Vectors]] = {}

    @property
    def many(self) -> bool:
        """Whether an image may have several labels."""
        return bool(self.config.multi_label)

    def begin(self, run: Run) -> Encoder:
        """Take the layers of the run's head that stay; see `Task.begin`."""
        if not self.config.from_head:
            return run.encoder
        with fitting(f"head of {run.name}"):
            self.neck = neck_of(run.part("g"), self.config.from_head, run.name)
        return as_trained(run.encoder)

    # Labelled images

    def read(self, data: Any, preprocess: Any, where: Where) -> Labelled:
        """Read training images and their classes; see `Task.read`."""
        if self.config.teacher is not None and self.config.balance != "none":
            raise NearfarError(
                "--balance is for labels alone, and --teacher learns from answers too; leave one of them out."
            )
        self.keep = where.keep
        found, words = class_data.open_classes(data, preprocess, where, self.many)
        self.classes = class_numbers(sorted({word for some in words for word in some}))[1]
        if len(self.classes) < (1 if self.many else 2):
            raise NearfarError(
                f"the images of {found.name} are all of class {self.classes[0]!r}; add images of another."
            )
        found = class_data.numbered(found, words, self.classes, self.many)
        if self.config.teacher is not None:
            return self._taught(found, preprocess, where)
        if self.config.unlabelled is not None:
            raise NearfarError(
                f"--unlabelled {self.config.unlabelled} is for a teacher; name a fine-tuned run with "
                "--teacher, or leave it out."
            )
        return found

    def _taught(self, found: Labelled, preprocess: Any, where: Where) -> Labelled:
        """Open the teacher, which is part of what decides a training."""
        config = self.config
        self.teacher = open_teacher(
            str(config.teacher), config.unlabelled, config.teacher_temperature, preprocess, where
        )
        if self.many or self.teacher.opened.task.classes != self.classes:
            raise NearfarError(
                f"--teacher {config.teacher} has other classes than {found.name}; both need the same."
            )
        return replace(found, digest=f"{found.digest} {self.teacher.digest}")

    def read_test(self, data: Any, preprocess: Any, where: Where) -> Labelled:
        """Read test images, in the training's classes; see `Task.read_test`."""
        found, words = class_data.open_classes(data, preprocess, where, self.many)
        unknown = sorted({word for some in words for word in some} - {*self.classes})
        if unknown:
            raise NearfarError(
                f"{found.name} has classes that the training images lack ({', '.join(unknown[:3])}"
                f"{', ...' if len(unknown) > 3 else ''}); add training images of each, or remove them."
            )
        return class_data.numbered(found, words, self.classes, self.many)

    def reading(self, preprocess: Any) -> Any:
        """Decode images to predict as the encoder's own."""
        return preprocess

    def baselines(
        self, encoder: Encoder, fit: Labelled, data: Labelled, setup: Setup
    ) -> Mapping[str, Figures]:
        """Measure the teacher, if there is one; `nearfar evaluate` measures pixels and colours."""
        if self.teacher is None:
            return {}
        teacher: Any = self.teacher.opened
        how: dict[str, Any] = {"device": setup.device, "threads": setup.workers}
        logits = features(self.teacher.net, data.dataset, setup.preprocess, **how)
        return {"teacher": teacher.task.measure(logits, data)}

    def strata(self, data: Labelled) -> Rows:
        """Hold out the same share of each class; of images with several labels, any."""
        return np.zeros(len(data), np.int64) if self.many else np.asarray(data.targets, np.int64)

    def mode(self, data: Labelled, side: int, device: torch.device) -> str:
        """Choose what is trained by the images of the usual class, and by what the machine can do."""
        counts = data.targets.sum(0) if self.many else np.bincount(data.targets, minlength=len(self.classes))
        if self.config.teacher is not None:
            return "full"
        if np.median(counts) < FEW:
            return "few-labels"
        return "full" if device.type != "cpu" or side <= QUICK_SIDE else "linear"

    # Training

    def solve(self, encoder: Encoder, fit: Labelled, choice: Labelled | None, setup: Setup) -> Solved:
        """Fit logistic regression on the encoder's vectors; see `Task.solve`."""
        given = self._examples(encoder, fit, setup)
        answers = None
        if choice is not None:
            best = linear_fit.choose(given, self._examples(encoder, choice, setup))
        elif (found := linear_fit.crossed(given, setup.seed, fit.groups)) is not None:
            best, logits = found
            answers = list(logits.numpy())
        else:
            best = linear_fit.at_strength(given, 1.0)
        network = self._network(encoder, frozen=True)
        with torch.no_grad():
            for weight, value in zip(network.head.linear.parameters(), linear_fit.stacked(best), strict=True):
                weight.copy_(value)
        return Solved(network.to(setup.device), {"l2": best.l2}, answers)

    def _examples(self, encoder: Encoder, data: Labelled, setup: Setup) -> linear_fit.LabelledVectors:
        x = torch.from_numpy(self._features(encoder, data.dataset, setup))
        y, classes = torch.from_numpy(data.targets), len(self.classes)
        weights = None
        if self.config.balance != "none":
            weights = linear_fit.class_weights(y, classes)
            weights = weights if self.many else weights[y]
        return linear_fit.LabelledVectors(x, y, classes, weights)

    def _features(self, encoder: nn.Module, dataset: Any, setup: Setup) -> Vectors:
        """Encode labelled images once for each encoder."""
        key = id(encoder), str(dataset.fingerprint)
        if key not in self._vectors:
            found = vectors.encode(self._to_neck(encoder), dataset, setup, self.keep)
            self._vectors[key] = encoder, found  # which keeps the encoder, so that its number stays its own
        return self._vectors[key][1]

    def recipe(self, mode: str, images: int, size: int, epochs: float | None) -> TaskRecipe:
        """Train as SimCLR fine-tunes; see `Task.recipe`."""
        images += 0 if self.teacher is None else len(self.teacher.unlabelled)
        how: Any = "finetune" if mode == "full" else mode
        batch_size = batch_images(images, size, frozen=False)
        steps = training_steps(how, images, batch_size, 1.0, epochs)
        return TaskRecipe(RECIPES[how].lrs, steps, batch_size, warmup=WARMUP, images=images)

    def network(self, encoder: Encoder, fit: Labelled, setup: Setup, *, frozen: bool) -> Classifier:
        """Put a head that starts at 0 on an encoder, its input centred and scaled; see `Task.network`."""
        network = self._network(encoder, frozen, self._weights(fit)).to(setup.device)
        body = self._to_neck(network.f, network.head.neck)
        if not frozen:
            vectors.measure_norms(body, fit.dataset, setup)
        rows = np.arange(len(fit))[:: -(-len(fit) // SCALE_IMAGES)]
        how: dict[str, Any] = {"device": setup.device, "threads": setup.workers}
        h = features(body, Subset(fit.dataset, rows), setup.preprocess, **how)
        network.head.centre(torch.from_numpy(h).to(setup.device))
        return network

    def _to_neck(self, encoder: nn.Module, neck: Neck | None = None) -> nn.Module:
        """Give what turns images into the linear layer's input."""
        neck = neck or self.neck
        return encoder if neck is None else nn.Sequential(encoder, neck)

    def _network(self, encoder: Encoder, frozen: bool, weights: Tensor | None = None) -> Classifier:
        own = copy.deepcopy(encoder)
        how: dict[str, Any] = {"many": self.many, "weights": weights, "neck": copy.deepcopy(self.neck)}
        how["teacher"] = None if frozen else self.teacher
        return Classifier(own, len(self.classes), frozen=frozen, **how)

    def _weights(self, fit: Labelled) -> Tensor | None:
        if self.config.balance != "weights" and not (self.many and self.config.balance == "sampling"):
            return None
        return linear_fit.class_weights(torch.from_numpy(fit.targets), len(self.classes))

    def lrs(self, encoder: Encoder, recipe: TaskRecipe) -> tuple[float, ...]:
        """Give those of AdamW, where an encoder takes it."""
        return lrs_of("finetune", encoder) if takes_adamw(encoder) else recipe.lrs

    def optimizer(self, network: TaskNetwork, lr: float) -> torch.optim.Optimizer:
        """Make SGD with Nesterov's momentum, without weight decay; for encoders with layer norms AdamW."""
        assert isinstance(network, Classifier)
        if not network.frozen and takes_adamw(network.f):
            return adamw(network.f, list(network.head.parameters()), lr)
        trained = [weight for weight in network.parameters() if weight.requires_grad]
        return torch.optim.SGD(trained, lr, momentum=0.9, nesterov=True, fused=True)

    def feed(self, fit: Labelled, setup: Setup, *, batch_size: int, start: int) -> DataLoader:
        """Give random crops and flips, or what other kinds have for them; see `Task.feed`."""
        sampler = None
        if self.config.balance == "sampling" and not self.many:
            sampler = ClassBalanced(max(1, batch_size // len(self.classes)))
        images, labels = fit.dataset, fit.targets
        if self.teacher is not None:
            images = Joined(images, self.teacher.unlabelled)
            labels = np.concatenate([labels, np.full(len(self.teacher.unlabelled), UNLABELLED)])
        return DataLoader(
            images,
            [modality_of(setup.preprocess).labelled_views(setup.preprocess)],
            size=setup.preprocess.size,
            batch_size=batch_size,
            seed=setup.seed,
            start=start,
            threads=setup.workers,
            device=setup.feed_device,
            labels=labels,
            sampler=sampler,
        )

    # What a network says

    def answers(
        self, network: TaskNetwork, images: Any, setup: Setup, *, batch_size: int
    ) -> npt.NDArray[np.float32]:
        """Give (n, classes) logits, from the centre of each image."""
        how: dict[str, Any] = {"device": setup.device, "threads": setup.workers, "batch_size": batch_size}
        return features(nn.Sequential(network.f, network.head), images, setup.preprocess, **how)

    def measure(self, answers: Sequence[Any], data: Labelled) -> Figures:
        """Compare with the truth: accuracy, or the balanced one; of several labels the mAP."""
        logits = np.asarray(answers, np.float32)
        found = self._figures(logits, data, self.temperature)
        if self._crossed is not None and self._crossed[0] is data:
            fair = self._figures(logits, data, self._crossed[1]).values
            told = {key: fair[key] for key in ("log_loss", "calibration_error")}
            found = replace(found, values={**found.values, **told})
        return found

    def _figures(
        self, logits: npt.NDArray[np.float32], data: Labelled, temperature: float | npt.NDArray[np.float64]
    ) -> Figures:
        if self.many:
            return class_figures.of_labels(logits, data.targets, self.classes, temperature, data.groups)
        how: dict[str, Any] = {"balanced": self.config.balance != "none", "groups": data.groups}
        return class_figures.of_classes(logits, data.targets, self.classes, temperature, **how)

    def mistakes(self, answers: Sequence[Any], data: Labelled, count: int) -> list[Mistake]:
        """Find the wrong answers of which the network is surest."""
        logits = np.asarray(answers, np.float32)
        how: Any = {"many": self.many, "count": count}
        return class_figures.mistakes(logits, data, self.classes, self.temperature, **how)

    def calibrate(
        self, choice: tuple[Sequence[Any], Labelled], rest: tuple[Sequence[Any], Labelled]
    ) -> tuple[str, ...]:
        """Fit the temperature, and keep the probabilities from which `--reject` takes its threshold."""
        logits, data = np.asarray(choice[0], np.float32), choice[1]
        self.temperature = calibrate.temperature(logits, data.targets)
        # Where the same images are measured on, probabilities are judged by temperatures of the others.
        same = data is rest[1]
        self._crossed = (data, calibrate.crossed(logits, data.targets, data.groups)) if same else None
        if self.many:
            return ()
        shares = calibrate.probabilities(np.asarray(rest[0], np.float32), self.temperature, False)
        self.known, self.apart = np.sort(shares.max(axis=1)), choice[1] is not rest[1]
        least, one = 1 / (len(self.known) + 1), modality(choice[1].dataset.modality).one
        about = "" if self.apart else "; since choices were made on them, the share is rough"
        count = counted(len(self.known), one)
        return (
            f"predict --reject takes shares from {100 * least:.2g} % on: it goes by {count} that were "
            f"predicted without being trained on{about}",
        )

    # The card, and predictions

    def also_read(self) -> list[str]:
        """Name nothing."""
        return []

    def card(self) -> dict[str, Any]:
        """Give classes, temperature and the held-out images' probabilities."""
        # Unrounded: of a network that is sure, probabilities differ in their last digits alone.
        plain = {"classes": list(self.classes), "temperature": self.temperature, "known": self.known.tolist()}
        plain["apart"] = self.apart
        neck = None if self.neck is None else {"widths": list(self.neck.widths), "norm": self.neck.norm}
        return {**plain, "neck": neck}

    def restore(self, card: Mapping[str, Any], where: str) -> None:
        """Take over a card; see `Task.restore`."""
        widths = {"widths": [range(1, 1 << 20)], "norm": bool}
        shape = {"classes": [str], "temperature": float, "known": [float], "apart": bool}
        check_shape(card, {**shape, "neck": (None, widths)}, where)
        if card["neck"] is not None:
            self.neck = Neck(card["neck"]["widths"], card["neck"]["norm"])
        self.classes, self.temperature = tuple(card["classes"]), float(card["temperature"])
        self.known, self.apart = np.array(card["known"], np.float64), bool(card["apart"])
        if self.temperature <= 0 or len({*self.classes}) < len(self.classes) or not self.classes:
            raise NearfarError(f"{where}classes or temperature make no sense; the file is damaged.")

    def empty(self, encoder: Encoder, preprocess: Any) -> Classifier:
        """Build the network whose head takes the saved state."""
        return Classifier(encoder, len(self.classes), frozen=True, many=self.many, neck=self.neck)

    def exported(self, network: Classifier, preprocess: Any) -> HeadExport:
        """Give probabilities, calibrated."""
        return class_network.exported(network, preprocess.size, self.temperature, many=self.many)

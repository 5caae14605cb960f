"""Evaluates frozen encoders and baselines on labelled images.

What has to be chosen (k, temperature, penalty) is chosen on validation images, a part of the training images,
for the encoder and for each baseline. Only then is the test set opened, and each of its images read once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict, Unpack, overload

from ..core import progress
from ..core.device import device_named
from ..core.errors import NearfarError, nearest
from ..core.own_mark import mark_of
from ..core.text import as_list
from ..data.labels import splits
from ..data.modalities import MODALITIES, modality, modality_of
from ..finetuning.neck import with_neck
from ..training import checkpoint
from ..training.run import Run, load
from . import chosen, labelled_data
from .known_row import NONE
from .measure import EvaluationOptions, measure
from .paired_tests import PairedEvaluations, pair, to_keep
from .result import Evaluation, Transfer

BASELINES = ("pixels", "colours", "patches", "mfcc", "mfcc_course", "untrained", "scratch")


class Keywords(TypedDict, total=False):
    """What `evaluate` takes by name, beside the images."""

    label_level: int | None
    labels: str | Path | None
    seed: int
    device: str
    batch_size: int
    baselines: Sequence[str]
    groups: str | Path | None
    parts: Iterable[str] | str
    transfer: tuple[Any, Any] | None
    known: str | None
    from_head: int


@overload
def evaluate(
    run: Run | str | Path, *, train: Any, test: Any = None, **how: Unpack[Keywords]
) -> Evaluation: ...


@overload
def evaluate(
    run: Run | str | Path,
    other: Run | str | Path,
    *others: Run | str | Path,
    train: Any,
    test: Any = None,
    **how: Unpack[Keywords],
) -> PairedEvaluations: ...


# The overloads tell what comes of one run and of several; which settings there are is told once, here.
def evaluate(  # type: ignore[misc]
    run: Run | str | Path,
    *others: Run | str | Path,
    train: Any,
    test: Any = None,
    label_level: int | None = None,
    labels: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    batch_size: int = 256,
    baselines: Sequence[str] = BASELINES,
    groups: str | Path | None = None,
    parts: Iterable[str] | str = (),
    transfer: tuple[Any, Any] | None = None,
    known: str | None = None,
    from_head: int = 0,
) -> Evaluation | PairedEvaluations:
    """Measure an encoder on labelled images by k-NN and by a linear classifier, both on frozen features.

    Beside it stand raw pixels (the same centred square, at most 32 px a side, minus the training mean), a
    colour histogram and k-means patches (both of at most 64 px a side), the same network with
    random weights, the same network trained from scratch on the labels, and chance (always
    the most frequent training class). Labels are the names of folders, or a list's column.

    Example: nearfar evaluate runs/a --train labelled/train --test labelled/test

    What has to be chosen is chosen on validation images, a part of the training images. The result is also
    written to evaluation.json in the run's folder; of several runs, with the ranking of all. Memory: the
    features of both sets, with few_labels once more, and at most 2 GiB of raw pixels; images as `cache.load`
    keeps them.

    Args:
        run: a run or its folder, or a known encoder such as timm:resnet18.
        others: more of them, each evaluated on the same images and compared in pairs.
        train: labelled images to fit and to choose on; without `test`, a folder that holds train and test.
        test: labelled images, read once, after every choice is made.
        label_level: which folder on the way to an image names its class: 1 the first, -1 the innermost.
        labels: a .csv, .tsv or .parquet with the columns path and label, to take the labels of `train` and
            `test` from.
        seed: random seed: of the validation images, the untrained network and every other draw.
        device: "auto", "cpu", "cuda" or "mps".
        batch_size: images encoded at a time.
        baselines: which to measure, of "pixels", "pca" (their 128 principal components, found without
            labels), "colours" (a histogram), "patches" (k-means, Coates et al. 2011), of sound "mfcc" and
            "mfcc_course" (their mean and deviation, or their course over time), "untrained" and
            "scratch", the same network trained on the labels alone; that one is left out, with a note, where
            it would take longer than a quarter of the encoder's own training.
        groups: a .csv of images and the groups they belong to, such as patients; validation images are then
            whole groups, and there is a warning of test images whose group has training images.
        parts: what else to measure, by names of `evaluation.PARTS`: "few_labels", "retrieval", "clusters",
            "calibration", "svm", "robustness", "augmented", "finetune"; or "all". Of sounds "svm" always.
        transfer: training and test images of a second data set, for k-NN and linear; it has labels of its
            own, in the names of folders or a list's column.
        known: a known encoder as one more row, such as timm:resnet18; it gets the images as its makers
            prepare them. By default `known`, where it is installed and there are at most 10,000 images;
            none for no such row. Of several runs, the row is the first one's, and an encoder that is
            evaluated anyway is no further row.
        from_head: with the part "finetune", hidden layers of the head g, which the run kept, that stay
            between encoder and classifier, as SimCLR v2 does.

    Returns:
        The scores; of several runs those of each, and their differences.

    Raises:
        NearfarError: a part is unknown, images or labels cannot be used, or the encoder's bytes changed.

    Source:
        k-NN: Wu et al. 2018, section 3.4. Logistic regression on stored features by L-BFGS: SimCLR,
        appendix B.8.
    """
    if label_level is not None and labels is not None:
        raise NearfarError("--label-level and --labels exclude each other; give one of them.")
    if test is None:
        if not isinstance(train, (str, Path)):
            raise NearfarError("there are no test images; give test, or a folder that holds train and test.")
        train, test = splits(train)
        progress.say(f"fitting on {train}, testing on {test}")
    options = EvaluationOptions(
        label_level=label_level,
        labels=labels,
        seed=seed,
        device=device_named(device),
        batch_size=batch_size,
        baselines=_known_baselines(as_list(baselines)),
        parts=chosen(parts),
        groups=groups,
        known=known,
        from_head=from_head,
    )
    if batch_size < 1:
        raise NearfarError(f"--batch-size is {batch_size}; give 1 or more.")
    if from_head < 0:
        raise NearfarError(f"--from-head is {from_head}; give 0 or more layers of the head.")
    if from_head and "finetune" not in options.parts:
        raise NearfarError(f"--from-head {from_head} is for fine-tuning; add --finetune, or leave it out.")
    runs = [load(item) for item in (run, *others)]
    for item in runs:
        with_neck(item, from_head)  # what cannot be is said before anything is measured
    always = {name for item in runs for name in modality_of(item.preprocess).parts}
    options = replace(options, parts=chosen({*options.parts, *always}))
    names = [item.name for item in runs]
    if len(set(names)) < len(names):
        raise NearfarError("the same run is given twice; give each once.")
    if transfer is not None:  # what is wrong with it is said before anything is measured
        for kind in sorted({modality_of(item.preprocess).name for item in runs}):
            labelled_data.open_both(*transfer, kind, label_level, None)
    found = []
    for name, item in zip(names, runs, strict=True):
        if others:
            progress.say(f"evaluating {name}")
        beside = tuple(other for other in runs if other is not item)
        made = measure(item, train, test, replace(options, beside=beside))
        if transfer is not None:
            progress.say("evaluating on the second data set")
            second = measure(item, *transfer, replace(options, parts=(), groups=None, labels=None))
            made = replace(made, parts={**made.parts, "transfer": Transfer(second)})
        found.append(made)
        options = replace(options, known=NONE)
        _keep(item, made.to_json())
    if not others:
        return found[0]
    paired = pair(names, found, seed)
    for item, kept in zip(runs, to_keep(runs, paired), strict=True):
        _keep(item, kept)
    return paired


def _keep(run: Run, kept: dict[str, Any]) -> None:
    """Write what was found into the run's folder, if that can be written."""
    if run.path is None:  # a known encoder has no folder
        return
    named = [kept["data"]["train"], kept["data"]["test"]]
    kept["data"] = {**kept["data"], "mark": mark_of(named)}  # so that a report opens them
    try:
        checkpoint.write_json(run.path / "evaluation.json", kept)
    except NearfarError:
        progress.say(f"{run.path} cannot be written, so evaluation.json is not written.")


def _known_baselines(names: Sequence[str]) -> tuple[str, ...]:
    """Refuse a baseline that no kind of data has; what only another kind has is passed over later."""
    known = {"untrained"}.union(*(modality(kind).baselines for kind in MODALITIES))
    for name in names:
        if name not in known:
            raise NearfarError(
                f"baseline {name!r} of an evaluation is not known; {nearest(name, sorted(known))}"
            )
    return tuple(names)

"""Measures encoders on labelled images, honestly: frozen, beside what they have to beat, the test read once.

Everything that has to be chosen (k, temperature, penalty) is chosen on held-out training images, for the
encoder and for each baseline alike. Only then is the test set opened, and each image in it read once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

from ..core import progress
from ..core.device import device_named
from ..core.errors import NearfarError
from ..finetuning.trainer import How
from ..training import checkpoint
from ..training.run import Run, load
from .measure import Wishes, measure
from .paired_tests import Pairing, pair
from .result import Evaluation, Transfer

BASELINES = ("pixels", "untrained", "scratch")


@overload
def evaluate(run: Run | str | Path, *, train: Any, test: Any, **how: Any) -> Evaluation: ...


@overload
def evaluate(
    run: Run | str | Path,
    other: Run | str | Path,
    *others: Run | str | Path,
    train: Any,
    test: Any,
    **how: Any,
) -> Pairing: ...


# The overloads tell what comes of one run and of several; which settings there are is told once, here.
def evaluate(  # type: ignore[misc]
    run: Run | str | Path,
    *others: Run | str | Path,
    train: Any,
    test: Any,
    seed: int = 0,
    device: str = "auto",
    batch_size: int = 256,
    baselines: Sequence[str] = BASELINES,
    groups: str | Path | None = None,
    few_labels: bool = False,
    retrieval: bool = False,
    clusters: bool = False,
    calibration: bool = False,
    robustness: bool = False,
    augmented: bool = False,
    finetune: bool = False,
    transfer: tuple[Any, Any] | None = None,
    imagenet: str | None = None,
    full: bool = False,
) -> Evaluation | Pairing:
    """Measure an encoder by k-NN and by logistic regression on frozen features, and by more if asked to.

    Beside it stand raw pixels (the same centred square, at most 32 px a side, less the training mean), an
    untrained encoder of the same make, one trained from scratch on the labels, and chance (the most frequent
    training class). Whatever is found is also written to evaluation.json in the run's folder. Memory: the
    features of both sets, with few_labels once more, and at most 2 GiB of raw pixels; images as `cache.load`
    keeps them.

    Args:
        run: a run, or its folder.
        others: more of them, each measured alike and compared with each on the same test images.
        train: labelled images to fit and to choose on, as `sources.open_source` takes them; labels are
            first-level folder names or a list's column.
        test: labelled images, read once, after every choice is made.
        seed: names the held-out images, the untrained encoder, the bootstrap's resamples and all draws.
        device: "auto", "cpu", "cuda" or "mps".
        batch: images encoded at a time.
        baselines: which to measure, of "pixels", "pca" (their 128 principal directions, found without
            labels), "untrained" and "scratch", the same network learnt from the labels alone; that is
            left out, with a word, where it would take longer than the encoder's own training did.
        groups: a .csv of images and the groups they belong to, such as patients; choices are then made on
            groups held out whole, and test images of the training images' groups are warned of.
        few_labels: accuracy with 1, 2, 4, ... labels a class, 1 % and 10 %, over many draws.
        retrieval: search by example: mean average precision, and hits among the first 1, 5 and 10.
        clusters: k-means on the test images, compared with the classes.
        calibration: whether the linear classifier is right as often as it says.
        robustness: the linear classifier on spoilt test images: noise, blur, weather and compression.
        augmented: a linear classifier trained on augmented images, the encoder frozen (SimCLR's protocol).
        finetune: the encoder trained on with labels, and its like from scratch; with few_labels on few, too.
        transfer: training and test images of a second data set, for k-NN and linear.
        imagenet: beside the baselines, a network with ImageNet weights: its torchvision or timm name (its
            weights are fetched unless they are at hand) or NAME=FILE.safetensors. It sees the images as
            they were read for the run, resized to the side it was made for.
        full: all of these that need no second data set.

    Returns:
        The scores; of several runs those of each, and their differences.

    Raises:
        NearfarError: images or labels cannot be used, or the encoder's bytes changed on the way.

    Source:
        k-NN: Wu et al. 2018, section 3.4. Logistic regression on stored features by L-BFGS: SimCLR,
        appendix B.8.
    """
    asked = {
        "few_labels": few_labels,
        "retrieval": retrieval,
        "clusters": clusters,
        "calibration": calibration,
        "robustness": robustness,
    }
    tuned: tuple[How, ...] = ("linear",) if augmented or full else ()
    tuned += ("finetune", "scratch") if finetune or full else ()
    wishes = Wishes(
        seed=seed,
        device=device_named(device),
        batch_size=batch_size,
        baselines=tuple(baselines),
        parts=tuple(name for name, on in asked.items() if on or full),
        tuned=tuned,
        groups=groups,
        imagenet=imagenet,
    )
    runs = [item if isinstance(item, Run) else load(item) for item in (run, *others)]
    names = [str(item.path) for item in runs]
    if len(set(names)) < len(names):
        raise NearfarError("the same run is given twice; give each once.")
    found = []
    for name, item in zip(names, runs, strict=True):
        if others:
            progress.say(f"Evaluating {name}")
        made = measure(item, train, test, wishes)
        if transfer is not None:
            progress.say("Evaluating on the second data set")
            second = measure(item, *transfer, replace(wishes, parts=(), tuned=(), groups=None))
            made = replace(made, parts={**made.parts, "transfer": Transfer(second)})
        found.append(made)
        _keep(item, found[-1])
    return pair(names, found, seed) if others else found[0]


def _keep(run: Run, found: Evaluation) -> None:
    """Write what was found into the run's folder, if that can be written."""
    try:
        checkpoint.write_json(run.path / "evaluation.json", found.to_json())
    except NearfarError:
        progress.say(f"{run.path} cannot be written, so evaluation.json is not kept.")

"""How fast views are made on one core, and how exactly: against torchvision, kornia, lightly, albumentations.

Every maker gives two views of each image as SimCLR has them, the drawing of their parameters included:
crop, flip, jitter, grey, and at 224 px blur. A rate is source images a second of CPU time, all threads of
the process counted, while every library is held to one thread.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from nearfar.core import rng
from nearfar.core.memory import keep_freed_memory
from nearfar.data import cache
from nearfar.data.sources import open_source
from nearfar.images import kernels, views
from nearfar.images.view_settings import Views
from nearfar.training.settings import Training

from . import measure, pictures
from .measure import Spread
from .scoreboard import Asked
from .table import Bar, Row, Section

SMALL = Views()
LARGE = Views(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, blur=0.5)
KEPT = 256  # short side at which nearfar keeps images that are trained on at 224 px
Work = Callable[[], object]


def store(folder: Path, *, packed: bool) -> Any:
    """Open a folder as pretraining at 224 px does: decoded once, or file by file with --no-cache."""
    return cache.load(
        open_source(str(folder)),
        short_side=KEPT,
        max_pixels=Training.max_pixels,
        max_bad=Training.max_bad,
        threads=1,
        decode_once=packed,
    )


def ours(images: Any, count: int, settings: Views, size: int, interpolation: str) -> Work:
    """Draw and make two views of each image of a block, or of a store."""
    rows, epoch = np.arange(count), iter(range(10**9))

    def work() -> None:
        key = next(epoch)
        found = images.gather(rows) if hasattr(images, "gather") else images
        for view in range(2):
            drawn = views.draw(settings, rng.fold(0, key, view), rows, found.height, found.width, size)
            kernels.apply(found, drawn, size, interpolation, threads=1)

    return work


def torchvision(inputs: Any, settings: Views, size: int, interpolation: str, *, tensors: bool) -> Work:
    """Make two views of each image, one image at a time, as a data set's worker does."""
    from torchvision import transforms as v1
    from torchvision.transforms import v2

    t: Any = v2 if tensors else v1
    jitter = t.ColorJitter(settings.brightness, settings.contrast, settings.saturation, settings.hue)
    area = (settings.crop_min, settings.crop_max)
    steps = [
        t.RandomResizedCrop(size, area, interpolation=v1.InterpolationMode(interpolation), antialias=True),
        t.RandomHorizontalFlip(settings.flip),
        t.RandomApply([jitter], settings.jitter),
        t.RandomGrayscale(settings.grayscale),
    ]
    if settings.blur:
        side = 2 * views.blur_radius(size) + 1
        steps.append(t.RandomApply([t.GaussianBlur(side, (0.1, 2.0))], settings.blur))
    steps.append(v2.ToDtype(torch.float32, scale=True) if tensors else v1.ToTensor())
    make = t.Compose(steps)
    turn = (lambda image: torch.tensor(np.asarray(image)).permute(2, 0, 1)) if tensors else (lambda x: x)

    def work() -> None:
        for image in inputs():
            first = turn(image)
            make(first), make(first)

    return work


def kornia(inputs: Any, settings: Views, size: int, interpolation: str) -> Work:
    """Make two views of a whole batch of float tensors."""
    import kornia.augmentation as K

    reach = (settings.brightness, settings.contrast, settings.saturation, settings.hue)
    area = (settings.crop_min, settings.crop_max)
    steps = [
        K.RandomResizedCrop((size, size), area, resample=interpolation),
        K.RandomHorizontalFlip(p=settings.flip),
        K.ColorJitter(*reach, p=settings.jitter),
        K.RandomGrayscale(p=settings.grayscale),
    ]
    if settings.blur:
        side = 2 * views.blur_radius(size) + 1
        steps.append(K.RandomGaussianBlur((side, side), (0.1, 2.0), p=settings.blur))
    make = torch.nn.Sequential(*steps)
    batch = torch.stack([torch.tensor(np.asarray(image)).permute(2, 0, 1) for image in inputs()])

    def work() -> None:
        floats = batch.float() / 255
        make(floats), make(floats)

    return work


def lightly(inputs: Any, settings: Views, size: int, interpolation: str) -> Work:
    """Make two views of each image with lightly's SimCLR transform, which resizes bilinearly."""
    from lightly.transforms import SimCLRTransform

    make = SimCLRTransform(
        input_size=size,
        cj_strength=settings.brightness / 0.8,
        min_scale=settings.crop_min,
        gaussian_blur=settings.blur,
        normalize=None,
    )

    def work() -> None:
        for image in inputs():
            make(image)

    return work


def albumentations(inputs: Any, settings: Views, size: int, interpolation: str) -> Work:
    """Make two views of each image with OpenCV's operations, whose resizing is not antialiased."""
    import albumentations as A
    import cv2
    from albumentations.pytorch import ToTensorV2

    cv2.setNumThreads(0)
    way = cv2.INTER_CUBIC if interpolation == "bicubic" else cv2.INTER_LINEAR
    steps = [
        A.RandomResizedCrop((size, size), (settings.crop_min, settings.crop_max), interpolation=way),
        A.HorizontalFlip(p=settings.flip),
        A.ColorJitter(
            (1 - settings.brightness, 1 + settings.brightness),
            (1 - settings.contrast, 1 + settings.contrast),
            (1 - settings.saturation, 1 + settings.saturation),
            (-settings.hue, settings.hue),
            p=settings.jitter,
        ),
        A.ToGray(p=settings.grayscale),
    ]
    if settings.blur:
        side = 2 * views.blur_radius(size) + 1
        steps.append(A.GaussianBlur((side, side), (0.1, 2.0), p=settings.blur))
    make = A.Compose([*steps, A.ToFloat(255), ToTensorV2()])

    def work() -> None:
        for image in inputs():
            pixels = np.asarray(image)
            make(image=pixels), make(image=pixels)

    return work


def error(images: Any, count: int, settings: Views, size: int, interpolation: str) -> float:
    """Find the largest difference of a value from torchvision's float operations on the same parameters."""
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional as tv

    rows = np.arange(count)
    drawn = views.draw(settings, rng.fold(0, "error"), rows, images.height, images.width, size)
    made = kernels.apply(images, drawn, size, interpolation)
    change = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
    side, worst = 2 * views.blur_radius(size) + 1, 0.0
    for k in range(count):
        high, wide, start = int(images.height[k]), int(images.width[k]), int(images.offset[k])
        pixels = np.array(images.pixels[start : start + 3 * high * wide]).reshape(high, wide, 3)
        x = torch.from_numpy(pixels).permute(2, 0, 1).double() / 255  # resized in float64, as its truth
        mode = InterpolationMode(interpolation)
        x = tv.resized_crop(x, *drawn.box[k].tolist(), [size, size], mode, antialias=True)
        x = x.clamp(0, 1).float()
        x = tv.horizontal_flip(x) if drawn.flip[k] else x
        for which in drawn.order[k] if drawn.jitter[k] else ():
            x = change[which](x, float(drawn.factors[k, which]))
        x = tv.rgb_to_grayscale(x, 3) if drawn.grayscale[k] else x
        if drawn.sigma[k] > 0:
            x = tv.gaussian_blur(x, [side, side], [float(drawn.sigma[k])] * 2)
        worst = max(worst, float((made[k] - x).abs().max()))
    return worst


PEERS: dict[str, tuple[Callable[..., Work], tuple[str, ...], str]] = {
    "torchvision v1, PIL": (partial(torchvision, tensors=False), ("bilinear", "bicubic"), ""),
    "torchvision v2, tensors": (partial(torchvision, tensors=True), ("bilinear", "bicubic"), ""),
    "kornia, batched": (kornia, ("bilinear", "bicubic"), ""),
    "albumentations": (albumentations, ("bilinear", "bicubic"), "resizing not antialiased"),
    "lightly": (lightly, ("bilinear",), "its own choice of resizing"),
}


def case(
    name: str,
    source: Any,
    count: int,
    inputs: Any,
    settings: Views,
    size: int,
    wanted: Asked,
    skip: tuple[str, ...],
) -> tuple[list[Row], dict[str, Spread]]:
    """Measure one case in turns.

    Args:
        name: what the rows call it.
        source: what ours reads: a block or a store of `count` images.
        inputs: gives the peers' images, in a list or freshly decoded; they take fewer of them at 32 px.
        settings, size: of the views.
        wanted: rounds and size.
        skip: peers left out.

    Returns:
        The rows, and the spread of ours by interpolation.
    """
    seconds = 0.01 if wanted.quick else 0.5
    works: dict[str, Callable[[], float]] = {}
    rows, notes = [], {}
    for way in ("bilinear", "bicubic"):
        works[f"nearfar, {way}"] = measure.rate(ours(source, count, settings, size, way), count, seconds)
        for who, (make, ways, note) in PEERS.items():
            if way not in ways or who in skip:
                continue
            try:
                work = make(inputs, settings, size, way)
                work()
                works[f"{who}, {way}"] = measure.rate(work, len(inputs.images), seconds)
                notes[f"{who}, {way}"] = note
            except Exception as failed:  # a peer's failure is a row
                rows.append(Row(name, f"{who}, {way}", None, "", note=measure.reason(failed)))
    found = measure.alternate(works, wanted.rounds)
    made = []
    for who, values in found.items():
        way = who.rpartition(", ")[2]
        mine = found[f"nearfar, {way}"]
        gain = measure.gain(mine, values, more_is_better=True) if who in notes else None
        made.append(Row(name, who, Spread.of(values), "images/s a core", gain, notes.get(who, "")))
    return made + rows, {way: Spread.of(found[f"nearfar, {way}"]) for way in ("bilinear", "bicubic")}


def profile(source: Any, count: int, settings: Views, size: int, wanted: Asked) -> tuple[list[Row], str]:
    """Tell where the time of our views goes, by leaving parts of the work out."""
    seconds, rows = 0.01 if wanted.quick else 0.5, np.arange(count)
    plain = replace(settings, jitter=0.0, grayscale=0.0, blur=0.0)

    def draw() -> None:
        for view in range(2):
            views.draw(settings, rng.fold(0, "profile", view), rows, source.height, source.width, size)

    works = {
        "all": ours(source, count, settings, size, "bilinear"),
        "without colour": ours(source, count, plain, size, "bilinear"),
        "the drawing alone": draw,
    }
    found = measure.alternate(
        {name: measure.rate(work, count, seconds) for name, work in works.items()}, wanted.rounds
    )
    made = [
        Row(
            f"{size} px, no blur, profile", f"nearfar, bilinear: {name}", Spread.of(values), "images/s a core"
        )
        for name, values in found.items()
    ]
    whole, crop, drawn = (5e5 / Spread.of(values).middle for values in found.values())  # us a view
    return made, (
        f"Where the time of a view of {size} x {size} pixels goes: {whole:.1f} us, of which drawing its "
        f"parameters takes {drawn:.1f}, crop, resize and flip {crop - drawn:.1f}, colour {whole - crop:.1f}. "
        "The image stays in the first cache throughout; what is left to gain is two turns of it number by "
        "number, since the compiler has no shuffles of vectors to offer. The speed of a core of this machine "
        "swings by a third from minute to minute, the peers' with it: the ratios say more than the rate."
    )


def decoding(files: Any, count: int, settings: Views, size: int, wanted: Asked) -> tuple[list[Row], str]:
    """Tell how much of the time of views of JPEG files is decoding."""
    seconds, rows = 0.01 if wanted.quick else 0.5, np.arange(count)
    works = {
        "all": ours(files, count, settings, size, "bilinear"),
        "decoding alone": lambda: files.gather(rows),
    }
    found = measure.alternate(
        {name: measure.rate(work, count, seconds) for name, work in works.items()}, wanted.rounds
    )
    made = [
        Row(
            f"{size} px of JPEG files, profile",
            f"nearfar, bilinear: {name}",
            Spread.of(values),
            "images/s a core",
        )
        for name, values in found.items()
    ]
    whole, alone = (1e3 / Spread.of(values).middle for values in found.values())  # ms an image
    return made, (
        f"Where the time of two views of {size} px of a JPEG file goes: {whole:.2f} ms, of which reading, "
        f"decoding (libjpeg-turbo, through simplejpeg) and reducing it take {alone:.2f} and the views "
        f"{whole - alone:.2f}."
    )


class Decoded:
    """Gives peers images that lie decoded in memory."""

    def __init__(self, images: Any) -> None:
        self.images = [Image.fromarray(image) for image in images]

    def __call__(self) -> Any:
        return self.images


class Decoding:
    """Gives peers images decoded from their files each time, as a data set does."""

    def __init__(self, paths: list[Path]) -> None:
        self.images = paths

    def __call__(self) -> Any:
        for path in self.images:
            with Image.open(path) as image:
                yield image.convert("RGB")


def ahead(title: str, way: str, rows: list[Row], least: float) -> Bar:
    """Compare our rate with that of the fastest other library."""
    gains = {row.who: row.gain.middle for row in rows if row.gain and row.who.endswith(way)}
    next_one = min(gains, key=lambda who: gains[who], default="")
    told = f"{gains[next_one]:.3g} times ({next_one})" if gains else "no other library is installed"
    return Bar(
        f"{title}, {way}: at least {least:g} times the fastest other library",
        bool(gains) and gains[next_one] >= least,
        told,
    )


def run(wanted: Asked) -> Section:
    """Measure the three cases."""
    torch.set_num_threads(1)
    keep_freed_memory()  # as training does
    few, many = (2, 8) if wanted.quick else (16, 512)
    section = Section((__doc__ or "").partition("\n\n")[2].strip().replace("\n", " "))
    kernels.ready()
    small = pictures.photographs(many, 32, 32)
    with tempfile.TemporaryDirectory() as name:
        folder = pictures.write(Path(name), pictures.photographs(few, 375, 500))
        packed, files = store(folder, packed=True), store(folder, packed=False)
        kept = [packed[row] for row in range(len(packed))]
        paths = sorted((folder / "images").iterdir())
        cases = (
            ("32 px, no blur", pictures.block(small), many, Decoded(small[:64]), SMALL, 32, (25.0, 22.0), ()),
            ("224 px of packed images, blur", packed, few, Decoded(kept), LARGE, 224, (1.0, 1.0), ()),
            (
                "224 px of 500 x 375 JPEG files, decoding and blur",
                files, few, Decoding(paths), LARGE, 224, (1.6, 1.6), ("kornia, batched",),
            ),
        )  # fmt: skip
        for title, source, count, inputs, settings, size, least, skip in cases:
            rows, mine = case(title, source, count, inputs, settings, size, wanted, skip)
            section.rows += rows
            section.bars += [ahead(title, way, rows, bar) for way, bar in zip(mine, least, strict=True)]
        rows, told = profile(pictures.block(small), many, SMALL, 32, wanted)
        section.rows += rows
        section.notes.append(told)
        rows, told = decoding(files, few, LARGE, 224, wanted)
        section.rows += rows
        section.notes.append(told)
        worst = {}
        for label, source, count, settings, size in (
            ("32 px", pictures.block(small[:256]), len(small[:256]), SMALL, 32),
            ("224 px", packed.gather(np.arange(few)), few, LARGE, 224),
        ):
            for way in ("bilinear", "bicubic"):
                worst[f"{label} {way}"] = error(source, count, settings, size, way)
        told = ", ".join(f"{label} {value:.1e}" for label, value in worst.items())
        text = "largest difference of a pixel from torchvision's float operations at most 1e-5"
        section.bars.append(Bar(text, max(worst.values()) <= 1e-5, told))
    section.notes.append(
        f"The images are smooth noise, JPEG quality {pictures.QUALITY}. Packed images have a short side of "
        f"{KEPT} px, and every maker is given the same ones. The process keeps the memory that is freed, as "
        "nearfar's training has it; that is so for every maker."
    )
    return section

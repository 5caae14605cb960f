"""Measures how fast views are made on one core, beside torchvision and, if installed, kornia and lightly.

    python benchmarks/views.py --seconds 3

Three cases: two views of a 32 px image (SimCLR's CIFAR recipe), two views at 224 px of a decoded
375 x 500 image with blur, and the same from the JPEG file, decoding included. A rate is source images
a second in CPU time of one thread, drawing included: the best of the rounds that fit the seconds, and
in brackets their middle.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
import types
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from PIL import Image

from nearfar import kernels, rng, views
from nearfar.settings import Views

SMALL = Views()
LARGE = Views(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, blur=0.5)


def photographs(count: int, high: int, wide: int) -> np.ndarray:
    """Make (count, high, wide, 3) uint8 images as smooth as photographs: noise at several scales."""
    random = np.random.default_rng(0)
    layers = [
        torch.nn.functional.interpolate(
            torch.tensor(random.normal(size=(count, 3, max(2, high // s), max(2, wide // s)))).float()
            * s**0.5,
            (high, wide),
            mode="bilinear",
        )
        for s in (2, 8, 32)
    ]
    image = (sum(layers) * 16 + 128).clamp(0, 255)  # type: ignore[union-attr]
    return np.ascontiguousarray(image.permute(0, 2, 3, 1).to(torch.uint8).numpy())


def block(images: np.ndarray) -> types.SimpleNamespace:
    """Lay images of one size out as the kernels read them."""
    n, high, wide, _ = images.shape
    return types.SimpleNamespace(
        pixels=images.reshape(-1),
        offset=np.arange(n, dtype=np.int64) * high * wide * 3,
        height=np.full(n, high, np.int32),
        width=np.full(n, wide, np.int32),
    )


def ours(images: np.ndarray, settings: Views, size: int, path: str) -> Callable[[], None]:
    """Draw and make two views of each image."""
    source, ids, epoch = block(images), np.arange(len(images)), iter(range(10**9))

    def work() -> None:
        key = next(epoch)
        for view in range(2):
            drawn = views.draw(settings, rng.fold(0, key, view), ids, source.height, source.width, size)
            kernels.apply(source, drawn, size, settings.interpolation, path=path)

    return work


def composed(settings: Views, size: int, tensors: bool) -> Callable[[object], torch.Tensor]:
    """Compose the same recipe from torchvision's transforms: v2 on tensors, or v1 on PIL images."""
    from torchvision import transforms as v1
    from torchvision.transforms import v2

    t = v2 if tensors else v1
    jitter = t.ColorJitter(settings.brightness, settings.contrast, settings.saturation, settings.hue)
    bicubic = v1.InterpolationMode.BICUBIC
    steps = [
        t.RandomResizedCrop(size, (settings.crop_min, settings.crop_max), interpolation=bicubic),
        t.RandomHorizontalFlip(settings.flip),
        t.RandomApply([jitter], settings.jitter),
        t.RandomGrayscale(settings.grey),
    ]
    if settings.blur:
        side = 2 * views.blur_radius(size) + 1
        steps.append(t.RandomApply([t.GaussianBlur(side, (0.1, 2.0))], settings.blur))
    steps.append(v2.ToDtype(torch.float32, scale=True) if tensors else v1.ToTensor())
    return t.Compose(steps)


def torchvision(images: np.ndarray, settings: Views, size: int, tensors: bool) -> Callable[[], None]:
    """Make two views of each image, one image at a time, as a data set's worker does."""
    make = composed(settings, size, tensors)
    if tensors:
        inputs = list(torch.tensor(images).permute(0, 3, 1, 2))
    else:
        inputs = [Image.fromarray(image) for image in images]

    def work() -> None:
        for image in inputs:
            make(image), make(image)

    return work


def kornia(images: np.ndarray, settings: Views, size: int) -> Callable[[], None]:
    """Make two views of a whole batch of float tensors with kornia; raises ImportError without it."""
    import kornia.augmentation as K

    steps = [
        K.RandomResizedCrop((size, size), (settings.crop_min, settings.crop_max), resample="bicubic"),
        K.RandomHorizontalFlip(p=settings.flip),
        K.ColorJitter(
            settings.brightness, settings.contrast, settings.saturation, settings.hue, p=settings.jitter
        ),
        K.RandomGrayscale(p=settings.grey),
    ]
    if settings.blur:
        side = 2 * views.blur_radius(size) + 1
        steps.append(K.RandomGaussianBlur((side, side), (0.1, 2.0), p=settings.blur))
    make = torch.nn.Sequential(*steps)
    batch = torch.tensor(images).permute(0, 3, 1, 2)

    def work() -> None:
        floats = batch.float() / 255
        make(floats), make(floats)

    return work


def lightly(images: np.ndarray, settings: Views, size: int) -> Callable[[], None]:
    """Make two views of each PIL image with lightly's SimCLR transform; raises ImportError without it."""
    from lightly.transforms import SimCLRTransform

    strength = settings.brightness / 0.8
    make = SimCLRTransform(
        input_size=size,
        cj_strength=strength,
        min_scale=settings.crop_min,
        gaussian_blur=settings.blur,
        normalize=None,
    )
    inputs = [Image.fromarray(image) for image in images]

    def work() -> None:
        for image in inputs:
            make(image)

    return work


def from_jpeg(images: np.ndarray, settings: Views, size: int, fused: bool) -> Callable[[], None]:
    """Decode each JPEG file and make two views of it, ours or torchvision's on PIL images."""
    files = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    make, ids = composed(settings, size, tensors=False), np.arange(len(files))

    def decoded() -> Iterator[Image.Image]:
        for data in files:
            yield Image.open(io.BytesIO(data)).convert("RGB")

    def ours_work() -> None:
        source = block(np.stack([np.asarray(image) for image in decoded()]))
        for view in range(2):
            drawn = views.draw(settings, rng.fold(0, view), ids, source.height, source.width, size)
            kernels.apply(source, drawn, size, settings.interpolation)

    def their_work() -> None:
        for image in decoded():
            make(image), make(image)

    return ours_work if fused else their_work


def rates(work: Callable[[], None], count: int, seconds: float) -> tuple[float, float]:
    """Repeat the work for some seconds; give the best and the middle rate, images a second."""
    work()
    found, stop = [], time.monotonic() + seconds
    while len(found) < 3 or time.monotonic() < stop:
        start = time.thread_time()
        work()
        found.append(count / max(time.thread_time() - start, 1e-9))
    return max(found), statistics.median(found)


def table(title: str, seconds: float, rows: dict[str, tuple[int, Callable[[], Callable[[], None]]]]) -> None:
    """Print a row a maker: its rates, and how many times faster the first row is."""
    print(f"\n{title}\n{'':26}{'images/s a core':>17}{'(middle)':>12}{'first row is':>15}")
    first = 0.0
    for name, (count, build) in rows.items():
        try:
            best, middle = rates(build(), count, seconds)
        except ImportError:
            print(f"{name:26}{'not installed':>17}")
            continue
        first = first or best
        print(f"{name:26}{best:>17,.0f}{f'({middle:,.0f})':>12}{first / best:>14,.1f}x")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how fast views are made on one core.")
    parser.add_argument("--seconds", type=float, default=2.0, help="time for each row")
    seconds = parser.parse_args().seconds
    torch.set_num_threads(1)
    small, large = photographs(512, 32, 32), photographs(16, 375, 500)
    start = time.process_time()
    ours(small[:1], SMALL, 32, "fused")()
    print(f"first use of the kernel, compiled or read from disk: {time.process_time() - start:.1f} CPU s")
    cases = (
        ("Two views, 32 px, no blur", small, small[:64], SMALL, 32),
        ("Two views, 224 px of 375 x 500, blur", large, large, LARGE, 224),
    )
    for title, many, few, settings, size in cases:
        n = len(few)
        table(
            title,
            seconds,
            {
                "nearfar, fused": (len(many), partial(ours, many, settings, size, "fused")),
                "nearfar, reference": (n, partial(ours, few, settings, size, "reference")),
                "torchvision v2, tensors": (n, partial(torchvision, few, settings, size, True)),
                "torchvision v1, PIL": (n, partial(torchvision, few, settings, size, False)),
                "kornia, batched": (n, partial(kornia, few, settings, size)),
                "lightly, PIL": (n, partial(lightly, few, settings, size)),
            },
        )
    table(
        "Two views, 224 px of a 375 x 500 JPEG, decoding and blur",
        seconds,
        {
            "nearfar, fused": (len(large), partial(from_jpeg, large, LARGE, 224, True)),
            "torchvision v1, PIL": (len(large), partial(from_jpeg, large, LARGE, 224, False)),
        },
    )


if __name__ == "__main__":
    main()

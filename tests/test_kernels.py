"""The pixels: both paths against torchvision's float operations, over every shape and parameter."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from nearfar.core import rng
from nearfar.core.errors import NearfarError
from nearfar.images import kernels, views
from nearfar.images.view_settings import Views

PATHS = ("fused", "reference")
STRONG = Views(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, blur=0.5, solarize=0.3, jitter=0.9)


def block(shapes: list[tuple[int, int]], seed: int = 0, kind: str = "noise") -> types.SimpleNamespace:
    """Images of the given (height, width): noise, smooth gradients, flat colours or pure black and white."""
    random = np.random.default_rng(seed)
    images = []
    for high, wide in shapes:
        image = random.integers(0, 256, (high, wide, 3))
        if kind == "smooth":
            down, across = np.linspace(0, 255, high)[:, None, None], np.linspace(0, 80, wide)[:, None]
            image = np.clip(down * random.random(3) + across, 0, 255)
        elif kind == "flat":
            image = np.broadcast_to(random.integers(0, 256, 3), (high, wide, 3))
        elif kind == "extreme":
            image = random.integers(0, 2, (high, wide, 3)) * 255
        images.append(np.ascontiguousarray(image, np.uint8))
    high, wide = np.array(shapes, np.int32).T
    sizes = np.array([image.size for image in images])
    return types.SimpleNamespace(
        pixels=np.concatenate([image.ravel() for image in images]),
        offset=np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64),
        height=high,
        width=wide,
    )


def torchvision(
    images: types.SimpleNamespace, draws: views.AugmentationParams, size: int, interpolation: str
) -> torch.Tensor:
    """The same parameters through torchvision's own functions; the resize in float64, as its truth."""
    made = []
    for k in range(len(draws)):
        high, wide, start = images.height[k], images.width[k], images.offset[k]
        pixels = images.pixels[start : start + 3 * high * wide].reshape(high, wide, 3)
        x = torch.tensor(pixels).permute(2, 0, 1).double() / 255
        mode = InterpolationMode.BICUBIC if interpolation == "bicubic" else InterpolationMode.BILINEAR
        x = tv.resized_crop(x, *draws.box[k].tolist(), [size, size], mode, antialias=True).clamp(0, 1).float()
        x = tv.horizontal_flip(x) if draws.flip[k] else x
        for change in draws.order[k] if draws.jitter[k] else ():
            adjust = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)[change]
            x = adjust(x, float(draws.factors[k, change]))
        x = tv.rgb_to_grayscale(x, 3) if draws.grayscale[k] else x
        if draws.sigma[k] > 0:
            side = 2 * views.blur_radius(size) + 1
            x = tv.gaussian_blur(x, [side, side], [float(draws.sigma[k])] * 2)
        x = tv.solarize(x, 0.5) if draws.solarize[k] else x
        made.append(x)
    return torch.stack(made)


def strong(images: types.SimpleNamespace, size: int, seed: int = 0) -> views.AugmentationParams:
    n = len(images.height)
    return views.draw(STRONG, rng.fold(seed, "k"), np.arange(n), images.height, images.width, size)


SIDE = st.one_of(st.integers(1, 5), st.integers(6, 90))


@pytest.mark.parametrize("path", PATHS)
@budget(max_examples=60, deadline=None)
@given(
    shapes=st.lists(st.tuples(SIDE, SIDE), min_size=1, max_size=6),
    size=st.one_of(st.integers(1, 70), st.sampled_from([96, 128])),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
    kind=st.sampled_from(["noise", "smooth", "flat", "extreme"]),
    seed=st.integers(0, 10**6),
)
def test_pixels_are_torchvisions(
    path: str, shapes: list[tuple[int, int]], size: int, interpolation: str, kind: str, seed: int
) -> None:
    images = block(shapes, seed, kind)
    draws = strong(images, size, seed)
    ours = kernels.apply(images, draws, size, interpolation, path=path)
    assert (ours - torchvision(images, draws, size, interpolation)).abs().max() <= 1e-5
    assert ours.shape == (len(shapes), 3, size, size) and ours.min() >= 0 and ours.max() <= 1


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "size,shape", [(32, (32, 32)), (224, (375, 500)), (224, (1200, 40)), (16, (700, 900))]
)
def test_usual_and_unusual_sizes(path: str, size: int, shape: tuple[int, int]) -> None:
    images = block([shape] * (64 if size == 32 else 6), seed=5)
    draws = strong(images, size)
    ours = kernels.apply(images, draws, size, "bicubic", path=path)
    assert (ours - torchvision(images, draws, size, "bicubic")).abs().max() <= 1e-5


@pytest.mark.parametrize("path", PATHS)
def test_an_identity_draw_gives_the_image_back(path: str) -> None:
    images = block([(40, 40), (40, 40)])
    draws = views.centre(views.Preprocess(size=40, crop=1.0), images.height, images.width)
    truth = torch.tensor(images.pixels.reshape(2, 40, 40, 3)).permute(0, 3, 1, 2) / 255
    assert (kernels.apply(images, draws, 40, "bicubic", path=path) - truth).abs().max() <= 2e-7


@pytest.mark.parametrize("path", PATHS)
def test_the_centre_is_torchvisions_resize_and_crop(path: str) -> None:
    # 112 -> 0.875 of it is 98 px: the square falls on whole pixels, and so is the same region.
    images = block([(112, 112)], kind="smooth")
    draws = views.centre(views.Preprocess(size=56, crop=0.875), images.height, images.width)
    x = torch.tensor(images.pixels.reshape(112, 112, 3)).permute(2, 0, 1).double() / 255
    whole = tv.center_crop(tv.resize(x, [64, 64], InterpolationMode.BICUBIC, antialias=True), [56, 56])
    ours = kernels.apply(images, draws, 56, "bicubic", path=path)[0]
    # Only the border differs, since a crop that comes first hides its neighbours from the filter.
    assert (ours - whole)[:, 3:-3, 3:-3].abs().max() < 1e-5 and (ours - whole).abs().max() < 0.01


@pytest.mark.parametrize("threads", [2, 3, 7, 200])
def test_threads_never_change_a_bit(threads: int) -> None:
    images = block([(30 + k % 9, 50 - k % 13) for k in range(100)])
    draws = strong(images, 48)
    one = kernels.apply(images, draws, 48, "bicubic", path="fused")
    assert torch.equal(one, kernels.apply(images, draws, 48, "bicubic", threads=threads, path="fused"))


def test_a_row_is_the_same_in_any_company() -> None:
    images = block([(20 + k, 90 - k) for k in range(40)])
    draws = strong(images, 32)
    whole = kernels.apply(images, draws, 32, "bicubic")
    rows = np.array([30, 2, 2])
    few = types.SimpleNamespace(
        pixels=images.pixels, offset=images.offset[rows], height=images.height[rows], width=images.width[rows]
    )
    assert torch.equal(kernels.apply(few, draws.take(rows), 32, "bicubic"), whole[rows])


@pytest.mark.parametrize("path", PATHS)
def test_where_and_how_the_views_are_written(path: str) -> None:
    images = block([(32, 32)] * 4)
    draws = strong(images, 32)
    plain = kernels.apply(images, draws, 32, "bicubic", path=path)
    assert plain.is_contiguous(memory_format=torch.channels_last)
    half = kernels.apply(images, draws, 32, "bicubic", dtype=torch.bfloat16, path=path)
    assert half.dtype == torch.bfloat16 and torch.equal(half, plain.bfloat16())
    for out in (torch.full((4, 3, 32, 32), 9.0), torch.full_like(plain, 9.0), torch.full_like(half, 9.0)):
        assert kernels.apply(images, draws, 32, "bicubic", out=out, path=path) is out
        assert torch.equal(out, plain.to(out.dtype))
    none = types.SimpleNamespace(
        pixels=images.pixels, offset=images.offset[:0], height=images.height[:0], width=images.width[:0]
    )
    assert kernels.apply(none, draws.take(slice(0, 0)), 32, "bicubic", path=path).shape == (0, 3, 32, 32)


def test_pixels_may_be_read_only_or_on_disk(tmp_path: Path) -> None:
    images = block([(32, 32)] * 4)
    draws = strong(images, 32)
    usual = kernels.apply(images, draws, 32, "bicubic")
    images.pixels.tofile(tmp_path / "pixels.bin")
    images.pixels = np.memmap(tmp_path / "pixels.bin", np.uint8, mode="r")
    for path in PATHS:
        assert (kernels.apply(images, draws, 32, "bicubic", path=path) - usual).abs().max() <= 1e-5


def test_what_would_read_outside_is_refused() -> None:
    images = block([(32, 32)] * 2)
    good = strong(images, 32)
    for change in ([0, 0, 33, 32], [0, 1, 32, 32], [-1, 0, 5, 5], [0, 0, 0, 5]):
        bad = dataclasses.replace(good, box=np.array([[0, 0, 32, 32], change], np.int32))
        with pytest.raises(NearfarError, match=r"crop 1 .* leaves its image of 32 x 32"):
            kernels.apply(images, bad, 32, "bicubic")
    short = types.SimpleNamespace(**{**vars(images), "pixels": images.pixels[:-1]})
    with pytest.raises(NearfarError, match="leaves its image"):
        kernels.apply(short, good, 32, "bicubic")
    with pytest.raises(NearfarError, match="2 views were drawn for 1 image;"):
        kernels.apply(block([(32, 32)]), good, 32, "bicubic")
    with pytest.raises(NearfarError, match="out has shape"):
        kernels.apply(images, good, 32, "bicubic", out=torch.zeros(2, 3, 31, 32))
    with pytest.raises(NearfarError, match="interpolation 'nearest' is not known"):
        kernels.apply(images, good, 32, "nearest")
    with pytest.raises(NearfarError, match="path 'fast'"):
        kernels.apply(images, good, 32, "bicubic", path="fast")


ONE = """
import sys, types, numpy as np
from nearfar.images import kernels; from nearfar.core import progress; from nearfar.images import views
progress.show(True)
{before}
one = types.SimpleNamespace(pixels=np.arange(12, dtype=np.uint8), offset=np.zeros(1, np.int64),
                            height=np.array([2], np.int32), width=np.array([2], np.int32))
x = kernels.apply(one, views.centre(views.Preprocess(size=2, crop=1.0), [2], [2]), 2, "bicubic")
print(round(float(x.sum() * 255)), {after})
"""


def fresh(before: str, after: str) -> tuple[str, str]:
    """Make one view of the pixels 0 to 11 in a new process; give what it printed on either stream."""
    code = ONE.format(before=before, after=after)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


def test_without_numba_the_reference_runs_and_says_so() -> None:
    out, err = fresh("sys.modules['numba'] = None", "kernels._fused()")
    assert out == "66 None" and "pip install numba" in err


def test_the_kernel_is_compiled_once_and_kept_on_disk() -> None:
    kernels.apply(block([(2, 2)]), strong(block([(2, 2)]), 2), 2, "bicubic", path="fused")
    out, _ = fresh("", "len(kernels._fused()._views.stats.cache_misses)")
    assert out == "66 0"


def test_where_no_folder_can_be_written_it_compiles_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    import numba.core.caching

    from nearfar.core.compiled import jit

    monkeypatch.setattr(numba.core.caching.CacheImpl, "_locator_classes", [])
    assert jit(_twice)(21) == 42


def _twice(x: int) -> int:
    return 2 * x


def test_what_a_power_cut_left_of_the_compiled_kernel_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numba

    from nearfar.images.kernels import fused

    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    for cut in ("nbi", "nbc", "none"):  # the index, then the code
        spec = importlib.util.spec_from_file_location(fused.__name__, str(fused.__file__))
        assert spec is not None and spec.loader is not None
        started = importlib.util.module_from_spec(spec)  # as a new process has it
        spec.loader.exec_module(started)
        small = started._clip
        monkeypatch.setattr(started, "warm", functools.partial(small, np.float32(2)))
        monkeypatch.setattr(kernels, "fused", started)
        assert kernels._fused.__wrapped__() is started
        assert small(np.float32(2)) == 1 and (len(small.stats.cache_misses), len(small.stats.cache_hits)) == (
            1,
            0,
        )
        for file in tmp_path.rglob(f"fused._clip-*.{cut}"):
            file.write_bytes(b"")

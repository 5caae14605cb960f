"""The batched path makes the other paths' pixels, never waits for its device, and feeds a run to its end."""

from __future__ import annotations

import gc
import importlib
import queue
import types
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import settings as budget
from hypothesis import strategies as st
from test_kernels import SIDE, block, strong

import nearfar
from nearfar.core import rng
from nearfar.core.config import build
from nearfar.core.errors import NearfarError
from nearfar.data import loader
from nearfar.data.loader import AHEAD, DataLoader
from nearfar.images import kernels, views
from nearfar.images.kernels import batched
from nearfar.images.view_settings import Views
from nearfar.images.views import View

CPU = torch.device("cpu")


@budget(max_examples=60, deadline=None)
@given(
    shapes=st.lists(st.tuples(SIDE, SIDE), min_size=1, max_size=8),
    size=st.one_of(st.integers(1, 70), st.sampled_from([96, 128])),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
    kind=st.sampled_from(["noise", "smooth", "flat", "extreme"]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 10**6),
)
@example(
    shapes=[(375, 500)] * 3, size=224, interpolation="bicubic", kind="noise", dtype=torch.float32, seed=1
)
@example(shapes=[(700, 900)], size=16, interpolation="bicubic", kind="extreme", dtype=torch.float32, seed=2)
@example(shapes=[(1200, 40)], size=224, interpolation="bilinear", kind="noise", dtype=torch.float32, seed=3)
@example(shapes=[(32, 32)] * 64, size=32, interpolation="bicubic", kind="noise", dtype=torch.float32, seed=4)
def test_pixels_are_the_other_paths(
    shapes: list[tuple[int, int]], size: int, interpolation: str, kind: str, dtype: torch.dtype, seed: int
) -> None:
    images = block(shapes, seed, kind)
    draws = strong(images, size, seed)
    ours = kernels.apply(images, draws, size, interpolation, dtype=dtype, path="batched")
    assert ours.dtype == dtype and ours.is_contiguous(memory_format=torch.channels_last)
    assert ours.min() >= 0 and ours.max() <= 1
    step = torch.finfo(dtype).eps if dtype != torch.float32 else 0  # of rounding, at 1 or below
    for path in ("fused", "reference"):
        theirs = kernels.apply(images, draws, size, interpolation, path=path)
        assert (ours.float() - theirs).abs().max() <= 1e-5 + step


def test_every_change_alone_is_the_references() -> None:
    """Each change without the others, which might hide or mend what it does wrong."""
    images = block([(40, 50), (33, 60), (90, 20), (32, 32)] * 12)
    off = dict.fromkeys(("flip", "jitter", "grayscale", "blur", "solarize"), 0.0)
    for change in off:
        settings = build(Views, {**off, change: 1.0, "brightness": 0.8, "contrast": 0.8, "hue": 0.5})
        draws = views.draw(settings, rng.fold(0, change), np.arange(48), images.height, images.width, 40)
        ours = kernels.apply(images, draws, 40, "bicubic", path="batched")
        truth = kernels.apply(images, draws, 40, "bicubic", path="reference")
        assert (ours - truth).abs().max() <= 1e-5, change
        plain = views.draw(
            build(Views, off), rng.fold(0, change), np.arange(48), images.height, images.width, 40
        )
        assert (ours - kernels.apply(images, plain, 40, "bicubic")).abs().max() > 0.1, change


@budget(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 39), min_size=1, max_size=12), st.integers(1, 60))
def test_a_row_is_the_same_in_any_company(rows: list[int], size: int) -> None:
    images = block([(20 + k, 90 - k) for k in range(40)])
    draws = strong(images, size)
    whole = kernels.apply(images, draws, size, "bicubic", path="batched")
    few = types.SimpleNamespace(
        pixels=images.pixels, offset=images.offset[rows], height=images.height[rows], width=images.width[rows]
    )
    again = kernels.apply(few, draws.take(rows), size, "bicubic", path="batched")
    assert (again - whole[rows]).abs().max() <= 1e-5


def test_placed_images_are_a_copy_of_those_asked_for_and_no_more(tmp_path: Path) -> None:
    images = block([(5, 7), (4, 4), (9, 2)])
    images.pixels.tofile(tmp_path / "pixels.bin")
    rows = np.array([2, 0])
    few = types.SimpleNamespace(
        pixels=np.memmap(tmp_path / "pixels.bin", np.uint8, mode="r"),
        offset=images.offset[rows],
        height=images.height[rows],
        width=images.width[rows],
    )
    placed = kernels.place(few, CPU)
    assert placed.pixels.tolist() == [*images.pixels[105 + 48 :], *images.pixels[:105]]
    draws = strong(few, 12)
    made = kernels.apply(placed, draws, 12, "bicubic")  # "auto" computes where the images lie
    assert torch.equal(made, kernels.apply(few, draws, 12, "bicubic", path="batched"))
    out = torch.full((2, 3, 12, 12), 9.0)
    assert kernels.apply(placed, draws, 12, "bicubic", out=out) is out and torch.equal(out, made)
    with pytest.raises(NearfarError, match="choose auto or batched"):
        kernels.apply(placed, draws, 12, "bicubic", path="fused")
    with pytest.raises(NearfarError, match="leaves its image"):
        kernels.apply(placed, draws.take([1, 0]), 12, "bicubic")
    none = types.SimpleNamespace(
        pixels=images.pixels, offset=images.offset[:0], height=images.height[:0], width=images.width[:0]
    )
    assert kernels.apply(none, draws.take([]), 12, "bicubic", path="batched").shape == (0, 3, 12, 12)


def test_nothing_waits_for_the_device() -> None:
    """On the meta device there are no values: whoever asks for one, as a wait does, is refused."""
    images = block([(40, 50), (33, 60)] * 20)
    draws = strong(images, 40)
    placed = kernels.place(images, torch.device("meta"))
    view = batched._views(placed, draws, 40, cubic=True)
    assert view.shape == (40, 40, 3, 40) and view.device.type == "meta"
    with pytest.raises(RuntimeError):
        view.max().item()


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), max_size=30), st.integers(1, 200))
@budget(deadline=None)
def test_slices_are_all_rows_in_a_bounded_room(sides: list[tuple[int, int]], size: int) -> None:
    box = np.array([(0, 0, *side) for side in sides], np.int32).reshape(-1, 4)
    room = 20 * 2**20
    parts = list(batched.slices(box, size, room))
    assert np.array_equal(
        np.concatenate([np.arange(99)[part] for part in parts] or [[]]), np.arange(len(box))
    )
    for part in parts:
        tall, wide = (max(side) for side in zip(*sides[part], strict=True))
        padded = (part.stop - part.start) * 12 * tall * wide
        assert padded <= room or part.stop - part.start == 1


def test_slices_change_no_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    images = block([(30 + k, 50 - k) for k in range(20)])
    draws = strong(images, 32)
    whole = kernels.apply(images, draws, 32, "bicubic", path="batched")
    monkeypatch.setattr(batched.slices, "__defaults__", (1,))
    assert len(list(batched.slices(draws.box, 32))) == 20
    assert (kernels.apply(images, draws, 32, "bicubic", path="batched") - whole).abs().max() <= 1e-5


def test_products_are_full_float32_whatever_the_process_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(3, 20, 50, generator=draw), torch.randn(3, 50, 30, generator=draw)
    truth = torch.bmm(a.double(), b.double())
    for part in batched._thirds(a):
        assert torch.equal(part, part.bfloat16().float())  # what a short product takes exactly
    assert torch.equal(sum(part.double() for part in batched._thirds(a)), a.double())

    def short(x: torch.Tensor) -> torch.Tensor:
        return x.bfloat16().float()

    bmm, add = torch.bmm, torch.Tensor.baddbmm_
    monkeypatch.setattr(torch, "bmm", lambda x, y: bmm(short(x), short(y)))
    monkeypatch.setattr(torch.Tensor, "baddbmm_", lambda total, x, y: add(total, short(x), short(y)))
    assert (batched.product(a, b) - truth).abs().max() > 1e-2  # the setting says exact: the stand-in is used
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert (batched.product(a, b) - truth).abs().max() < 1e-5
    finally:
        torch.set_float32_matmul_precision(before)


def test_an_autocast_around_the_caller_changes_nothing() -> None:
    images = block([(40, 50)] * 4)
    draws = strong(images, 40)
    plain = kernels.apply(images, draws, 40, "bicubic", path="batched")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(kernels.apply(images, draws, 40, "bicubic", path="batched"), plain)


class Images:
    """A store of a few ragged images, as a feed needs it."""

    def __init__(self, count: int = 12) -> None:
        self.block = block([(20 + k, 40 - k) for k in range(count)])

    def __len__(self) -> int:
        return len(self.block.height)

    def gather(self, rows: np.ndarray) -> types.SimpleNamespace:
        part = self.block
        return types.SimpleNamespace(
            pixels=part.pixels, offset=part.offset[rows], height=part.height[rows], width=part.width[rows]
        )


def test_a_feed_makes_the_same_views_on_a_device() -> None:
    store, recipes = Images(), (Views(), Views(crop_min=0.5, solarize=0.5))
    usual = DataLoader(store, recipes, size=24, batch_size=4, seed=3)
    there = DataLoader(store, recipes, size=24, batch_size=4, seed=3, device=CPU)
    for step in (0, 5, 7):
        ours, theirs = there.make(step), usual.make(step)
        assert torch.equal(ours.rows, theirs.rows) and len(ours.views) == 2 and ours.key == theirs.key
        for one, two in zip(ours.views, theirs.views, strict=True):
            assert (one - two).abs().max() <= 1e-5
    following = iter(there)
    assert torch.equal(next(following).views[0], there.make(0).views[0])
    there.close()
    usual.close()  # never asked for a batch


def test_views_may_have_sides_of_their_own() -> None:
    store, plain = Images(), Views(crop_min=0.3)
    local = Views(crop_min=0.05, crop_max=0.3)
    feed = DataLoader(
        store, (plain, plain, View(local, 96 / 224), View(local, 96 / 224)), size=56, batch_size=4, seed=0
    )
    batch = feed.make(1)
    rows, made = batch.rows, batch.views
    assert [view.shape[2:] for view in made] == [(56, 56), (56, 56), (24, 24), (24, 24)]
    assert torch.equal(made[0], DataLoader(store, (plain,), size=56, batch_size=4, seed=0).make(1).views[0])
    part = store.gather(rows.numpy())
    draws = views.draw(local, rng.fold(0, "view", 0, 2), rows, part.height, part.width, 24)
    assert torch.equal(made[2], kernels.apply(part, draws, 24, "bicubic"))
    assert [View(plain, share).side(224) for share in (1.0, 96 / 224, 0.0001)] == [224, 96, 1]


@pytest.mark.parametrize("device", [None, CPU])
def test_a_feed_holds_at_most_two_batches_more_than_it_has_ready(
    device: torch.device | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    live: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
    most, plain = [], kernels.apply

    def counted(*words: object, **more: object) -> torch.Tensor:
        made = plain(*words, **more)
        live.add(made)
        most.append(len(live))
        return made

    monkeypatch.setattr(kernels, "apply", counted)
    feed = DataLoader(Images(), (Views(),), size=8, batch_size=4, seed=0, device=device)
    full: queue.Queue[None] = queue.Queue()
    put = feed._ready.put

    def noticed(*words: object, **more: object) -> None:
        try:
            put(*words, **more)
        except queue.Full:
            full.put(None)  # the thread waits with a batch in hand: it holds all that it ever will
            raise

    monkeypatch.setattr(feed._ready, "put", noticed)
    taken = 0
    for batch in feed:
        while not full.empty():
            full.get()
        full.get(timeout=60)
        most.append(len(live))
        taken += len(batch.views)
        if taken == 7:
            break
    feed.close()
    gc.collect()
    assert AHEAD + 1 <= max(most) <= AHEAD + 2


def test_a_run_with_views_on_the_device(photos: Path, tmp_path: Path) -> None:
    tiny = {"steps": 6, "batch_size": 16, "encoder": "resnet10_w16", "head": (16, 8), "precision": "float32"}
    tiny |= {"workers": 1, "device": "cpu"}
    there = nearfar.pretrain(photos, out=tmp_path / "there", views_on="device", **tiny)
    usual = nearfar.pretrain(photos, out=tmp_path / "usual", **tiny)
    assert there.config["training"]["views_on"] == "device"
    assert usual.config["training"]["views_on"] == "cpu"  # what "auto" found
    twice = nearfar.pretrain(photos, out=tmp_path / "twice", views_on="device", **tiny)
    ours, theirs, same = ([line["loss"] for line in run.log()] for run in (there, usual, twice))
    # The first step sees the same pixels to 1e-6; later ones drift apart as training does.
    assert ours[0] == pytest.approx(theirs[0], abs=1e-3) and ours != theirs and len(ours) == 6
    assert ours == same
    with pytest.raises(NearfarError, match="--views-on device became cpu"):
        nearfar.pretrain(photos, out=tmp_path / "there", views_on="cpu", **tiny)
    again = nearfar.pretrain(photos, out=tmp_path / "there", **tiny)  # "auto" takes what is recorded
    assert again.config["training"]["views_on"] == "device"


def test_the_quicker_place_is_taken_only_where_it_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("nearfar.training.setup")
    seconds = {"cpu": 2.0, "device": 1.0}
    monkeypatch.setattr(module, "seconds_a_batch", lambda place, tries: seconds[place])

    def chosen(device: str, on_device: bool = True) -> str:
        wanted = types.SimpleNamespace(kind=types.SimpleNamespace(on_device=on_device))
        job = types.SimpleNamespace(
            device=torch.device(device), wanted=wanted, feed=lambda start, place: place
        )
        return module._faster_place(job)

    assert (chosen("cuda"), chosen("cpu")) == ("device", "cpu")
    assert chosen("cuda", on_device=False) == "cpu"
    seconds["device"] = 3.0
    assert chosen("cuda") == "cpu"


def test_a_batch_is_timed_where_it_is_made() -> None:
    feed = DataLoader(Images(), (Views(),), size=8, batch_size=4, seed=0, device=CPU)
    steps = []
    feed.make = lambda step: steps.append(step)  # type: ignore[method-assign]
    assert 0 <= loader.seconds_a_batch(feed, tries=3) < 60 and steps == [0, 1, 2, 3]

"""Copies on two sides of a split are found however they lie, and other pictures are not."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from nearfar.analysis import split_copies
from nearfar.analysis.duplicates import Collection
from nearfar.analysis.split_copies import laid
from nearfar.analysis.split_copies import split_copies as pairs_of

WAYS = [(turn, mirrored) for turn in range(4) for mirrored in (False, True)]


def drawn(count: int, seed: int, sides: tuple[int, int] = (64, 64)) -> list[np.ndarray]:
    r = np.random.default_rng(seed)
    small = [Image.fromarray(r.integers(0, 256, (8, 8, 3), np.uint8)) for _ in range(count)]
    return [np.asarray(one.resize(sides, Image.Resampling.BICUBIC)) for one in small]


def turned(x: np.ndarray, turn: int, mirrored: bool) -> np.ndarray:
    return np.ascontiguousarray(np.rot90(x[:, ::-1] if mirrored else x, turn))


def collection(pictures: list[np.ndarray]) -> Collection:
    return Collection(
        np.empty((len(pictures), 0), np.float32),
        [""] * len(pictures),
        lambda rows: [pictures[int(row)] for row in rows],
    )


@pytest.mark.parametrize("sides", [(64, 64), (90, 60)])
def test_every_way_to_lie_becomes_one(sides: tuple[int, int]) -> None:
    for picture in drawn(5, 0, sides):
        ways = laid(collection([turned(picture, *way) for way in WAYS]))
        first, *others = ways.small(np.arange(len(WAYS)))
        assert all(np.array_equal(first, other) for other in others)
        assert float((ways.structure - ways.structure[:1]).abs().max()) < 2e-3


def test_all_copies_of_a_picture_are_joined_and_no_others() -> None:
    pictures = [turned(picture, *way) for picture in drawn(30, 1) for way in WAYS]
    a, b, _ = pairs_of(collection(pictures), None)
    group = np.arange(len(pictures))
    for i, j in zip(a, b, strict=True):
        group[group == group[i]] = group[j]
    assert [len(set(group[at : at + 8])) for at in range(0, 240, 8)] == [1] * 30
    assert len(set(group)) == 30


def test_few_pairs_are_compared_pixel_by_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    compared, similarity = [], Collection.similarity
    monkeypatch.setattr(
        Collection, "similarity", lambda *given: compared.append(len(given[2])) or similarity(*given)
    )
    pictures = [turned(picture, *way) for picture in drawn(20, 2) for way in WAYS]
    pairs_of(laid(collection(pictures)), None)
    assert sum(compared) <= 2 * 20 * 7


def test_a_copy_on_the_other_side_is_found_though_it_is_turned_and_small() -> None:
    train = drawn(40, 3)
    test = drawn(10, 4) + [
        np.asarray(Image.fromarray(turned(train[at], *WAYS[at])).resize((40, 40))) for at in range(1, 8)
    ]
    a, b, _ = pairs_of(collection(test), collection(train))
    assert sorted(set(zip(a.tolist(), b.tolist(), strict=True))) == [(9 + at, at) for at in range(1, 8)]


def test_pixels_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split_copies, "ALIKE", -1.0)  # every pair goes on to be compared
    a, *_ = pairs_of(collection(drawn(30, 5)), None)
    assert not len(a)

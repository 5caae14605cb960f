"""Duplicates: what passing an image on does to it is seen through, chains are no groups, leaks are found."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from nearfar.analysis import duplicates
from nearfar.analysis.duplicates import Collection
from nearfar.analysis.pixel_similarity import SIDE, ZOOMS, correlation, pixel_similarity, zoomed_files
from nearfar.core import rng
from nearfar.demo import drawings

Picture = np.ndarray


def jpeg(pixels: Picture, quality: int = 95) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return file.getvalue()


def saved(pixels: Picture, quality: int) -> Picture:
    return np.asarray(Image.open(io.BytesIO(jpeg(pixels, quality))))


def resized(pixels: Picture, width: int, height: int) -> Picture:
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


def large(count: int) -> list[Picture]:
    """Pictures of 96 x 96 pixels with several forms each, as photographs have several things."""
    small = [drawings.draw(form, 2 * count, 0, "copies") for form in drawings.FORMS]
    draws = rng.uniform(rng.fold(0, "forms"), np.arange(count), 4)
    made = []
    for number, draw in enumerate(draws):
        four = [small[int(u * len(small))][2 * number + k % 2] for k, u in enumerate(draw)]
        made.append(np.concatenate([np.concatenate(four[:2], 1), np.concatenate(four[2:], 1)], 0))
    return [resized(one, 96, 96) for one in made]


PASSED_ON: dict[str, Callable[[Picture], Picture]] = {
    "saved badly": lambda x: saved(x, 25),
    "smaller": lambda x: resized(x, 40, 40),
    "mirrored": lambda x: x[:, ::-1].copy(),
    "darker": lambda x: (0.6 * x).astype(np.uint8),
    "cut by a tenth": lambda x: x[4:91, 6:93].copy(),
    "cut by a sixth": lambda x: x[0:80, 8:88].copy(),
    "cut by a fifth": lambda x: x[12:89, 6:83].copy(),
    "cut, mirrored, smaller and saved": lambda x: saved(resized(x[8:90, 8:90][:, ::-1].copy(), 60, 60), 40),
}


def read(pictures: list[Picture]) -> Callable[[list[str]], list[bytes]]:
    return lambda ids: [jpeg(pictures[int(one)]) for one in ids]


def held(
    pictures: list[Picture], x: np.ndarray | None = None, digests: list[str] | None = None
) -> Collection:
    """A collection whose features know nothing, unless given: all cosines are 1."""
    names = [str(number) for number in range(len(pictures))]
    x = np.ones((len(pictures), 4), np.float32) if x is None else x.astype(np.float32)
    return Collection(x, zoomed_files(read(pictures), names), digests or [""] * len(pictures))


@pytest.mark.parametrize("what", PASSED_ON)
def test_what_was_passed_on_is_still_near_and_others_are_not(what: str) -> None:
    pictures = large(30)
    own, copies = held(pictures), held([PASSED_ON[what](one) for one in pictures])
    rows = np.arange(30)
    pixels = pixel_similarity(own.fine, copies.fine, rows, rows)
    assert np.quantile(pixels, 0.1) > 0.85, what
    assert np.median(pixel_similarity(own.fine, copies.fine, rows, np.roll(rows, 1))) < 0.4


def test_zooms_are_the_best_of_all_ways_to_compare() -> None:
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 6, 1 + len(ZOOMS), 3, SIDE, SIDE, generator=draw)
    rows, others = np.array([5, 0, 0]), np.array([0, 0, 5])
    slow = [
        max(
            float(correlation(a[i : i + 1, p], b[j : j + 1, q]))
            for p, q in [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0)]
        )
        for i, j in zip(rows, others, strict=True)
    ]
    assert pixel_similarity(a, b, rows, others) == pytest.approx(slow, abs=1e-5)
    assert pixel_similarity(a[:, 0], b[:, 0], rows, rows) == pytest.approx(
        correlation(a[rows, 0], b[rows, 0]).tolist(), abs=1e-6
    )


def test_a_missing_thumbnail_is_like_nothing() -> None:
    pictures = large(2)
    files = [jpeg(pictures[0]), b"", b""]
    found = zoomed_files(lambda ids: [files[int(one)] for one in ids], ["0", "1", "2"])
    assert pixel_similarity(found, found, np.array([0, 1]), np.array([1, 2])) == pytest.approx(0, abs=1e-3)


def test_groups_hold_the_planted_copies_and_the_best_is_kept() -> None:
    pictures = large(12)
    ways = list(PASSED_ON.values())
    everything = pictures + [way(pictures[0]) for way in ways] + [ways[1](pictures[5]), pictures[7]]
    source = [*range(12), *[0] * len(ways), 5, 7]
    x = np.eye(12)[source] + 0.05
    digests = [f"d{number}" for number in range(len(everything) - 1)] + ["d7"]
    quality = [one.shape[0] * one.shape[1] for one in everything]
    found = duplicates.duplicate_groups(held(everything, x, digests), quality)
    made = [found.rows[found.group == number].tolist() for number in range(found.group.max() + 1)]
    assert sorted(made[0]) == [0, *range(12, 12 + len(ways))] and made[0][0] == 0
    assert made[1:] == [[5, 12 + len(ways)], [7, 13 + len(ways)]]
    assert found.keep.sum() == 3 and found.rows[found.keep].tolist() == [0, 5, 7]
    assert found.same.tolist() == [False] * (len(found.rows) - 1) + [True]
    assert (found.similarity >= duplicates.MIN_SIMILARITY).all() and found.similarity[
        found.keep
    ].tolist() == [1, 1, 1]


def test_a_chain_of_gradual_change_is_not_one_group() -> None:
    one, other = (picture.astype(np.float32) for picture in large(2))
    steps = [((1 - t) * one + t * other).astype(np.uint8) for t in np.linspace(0, 1, 13)]
    angle = np.linspace(0, np.pi / 2, 13)
    chain = held(steps, np.stack([np.cos(angle), np.sin(angle)], 1))
    rows = np.arange(12)
    assert (chain.similarity(chain, rows, rows + 1) >= duplicates.MIN_SIMILARITY).all()  # a chain indeed
    found = duplicates.duplicate_groups(chain, [0] * 13)
    assert found.group.max() >= 1  # no single group
    for number in range(found.group.max() + 1):
        keeper, *rest = found.rows[found.group == number].tolist()
        assert (
            chain.similarity(chain, np.full(len(rest), keeper), np.array(rest)) >= duplicates.MIN_SIMILARITY
        ).all()


def test_a_large_group_stays_whole_though_an_image_has_ten_candidates() -> None:
    picture = large(1)[0]
    many = [saved(picture, 40 + number) for number in range(50)]
    x = np.random.default_rng(0).standard_normal((50, 3)) * 0.05 + 1
    found = duplicates.duplicate_groups(held(many, x), list(range(50)))
    assert len(found.rows) == 50 and found.group.max() == 0 and found.rows[0] == 49


def test_the_same_bytes_are_found_whatever_the_features_say() -> None:
    pictures = large(8)
    x = np.random.default_rng(0).standard_normal((8, 16))
    digests = ["a", "b", "a", "c", "", "", "a", "d"]
    found = duplicates.duplicate_groups(held(pictures, x, digests), [0] * 8)
    assert found.rows.tolist() == [0, 2, 6] and found.same.tolist() == [False, True, True]


def test_leaks_between_two_collections() -> None:
    pictures = large(20)
    ways = list(PASSED_ON.values())
    test = [*pictures[:5], *(way(one) for way, one in zip(ways, pictures[10:], strict=False))]
    x = np.eye(20) + 0.05
    mine = held(test, x[[*range(5), *range(10, 10 + len(ways))]], [*"abcde", *[""] * len(ways)])
    theirs = held(pictures[3:], x[3:], ["-", "-", "b", *[""] * 14])
    found = duplicates.duplicate_pairs(mine, theirs)
    # "b" says that image 1 is image 5 of theirs, byte for byte: it comes first.
    expected = {(3, 0), (4, 1), *((5 + way, 7 + way) for way in range(len(ways)))}
    assert (found.a[0], found.b[0], bool(found.same[0])) == (1, 2, True) and found.same.sum() == 1
    assert {*zip(found.a[1:].tolist(), found.b[1:].tolist(), strict=True)} == expected
    assert (np.diff(found.similarity) <= 0).all()


def test_few_images_are_no_trouble() -> None:
    alone = held(large(1))
    assert (
        len(duplicates.duplicate_pairs(alone)) == 0 and len(duplicates.duplicate_groups(alone, [0]).rows) == 0
    )
    assert len(duplicates.duplicate_pairs(alone, held(large(1)))) == 1

"""Duplicates: what passing an image on does to it is seen through, chains are no groups, leaks are found."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from nearfar.analysis import duplicates, planted
from nearfar.analysis.copy_threshold import LEAST, calibrate
from nearfar.analysis.difference import differences
from nearfar.analysis.duplicates import Collection
from nearfar.analysis.structure import SIDE, ZOOMS, fits, squeezed, structure
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


def read(pictures: list[Picture]) -> Callable[[np.ndarray], list[Picture | None]]:
    return lambda rows: [pictures[row] for row in rows]


def held(
    pictures: list[Picture], x: np.ndarray | None = None, digests: list[str] | None = None
) -> Collection:
    """A collection whose features know nothing, unless given: all cosines are 1."""
    x = np.ones((len(pictures), 4), np.float32) if x is None else x.astype(np.float32)
    return Collection(x, digests or [""] * len(pictures), read(pictures))


def pages(count: int, seed: int = 0) -> list[Picture]:
    """Pages of text: all have the same lines, and other words on them."""
    draw = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        page = np.full((150, 110, 3), 255, np.uint8)
        for line in range(8, 140, 10):
            at = 8
            while at < 100:
                word = int(draw.integers(4, 20))
                page[line : line + 5, at : min(at + word, 104)] = draw.integers(0, 80)
                at += word + 4
        made.append(page)
    return made


def products(count: int, seed: int = 0) -> list[Picture]:
    """Things on white: rectangles of other sizes, places and colours."""
    draw = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        picture = np.full((128, 128, 3), 255, np.uint8)
        for _ in range(int(draw.integers(2, 4))):
            top, left, high, wide = draw.integers([25, 25, 15, 15], [70, 70, 50, 50])
            picture[top : top + high, left : left + wide] = draw.integers(0, 200, 3)
        made.append(picture)
    return made


def boards(count: int, seed: int = 0) -> list[Picture]:
    """Boards of one design, each with one small defect elsewhere."""
    draw = np.random.default_rng(seed)
    design = np.zeros((200, 200, 3), np.uint8)
    for _ in range(14):
        at, low, high = int(draw.integers(5, 190)), *np.sort(draw.integers(5, 195, 2))
        design[at : at + 6, low:high] = 255
        design[low:high, at : at + 6] = 255
    made = []
    for _ in range(count):
        board = design.copy()
        row, column = np.argwhere(design[8:-8, 8:-8, 0] == 255)[int(draw.integers(1000))] + 8
        board[row - 4 : row + 5, column - 4 : column + 5] = 0
        made.append(board)
    return made


@pytest.mark.parametrize("what", PASSED_ON)
def test_what_was_passed_on_is_still_near_and_others_are_not(what: str) -> None:
    pictures = large(16)
    own, copies = held(pictures), held([PASSED_ON[what](one) for one in pictures])
    rows = np.arange(16)
    assert np.quantile(own.similarity(copies, rows, rows), 0.1) > 0.55, what
    assert own.similarity(copies, rows, np.roll(rows, 1)).max() < LEAST


@pytest.mark.parametrize("kind", [pages, products, boards])
def test_what_images_have_in_common_makes_no_copies(kind: Callable[[int], list[Picture]]) -> None:
    pictures = kind(10)
    found = duplicates.duplicate_groups(held(pictures), [0] * 10, LEAST)
    assert len(found.rows) == 0


@pytest.mark.parametrize("kind", [pages, products])
def test_nineteen_in_twenty_planted_copies_are_found_among_images_of_one_kind(
    kind: Callable[[int], list[Picture]],
) -> None:
    pictures = kind(20)
    ways = list(planted.WAYS.values())
    draws = np.random.default_rng(1).random((20, 3)).astype(np.float32)
    copies = [ways[row % len(ways)](pictures[row], draws[row]) for row in range(20)]
    level = calibrate(held(pictures))
    assert level.mistaken == 0 < level.others and level.found >= 0.95 * level.planted
    found = duplicates.duplicate_pairs(held([*pictures, *copies]), min_similarity=level.min_similarity)
    pairs = {*zip(found.a.tolist(), found.b.tolist(), strict=True)}
    planted_pairs = {(row, 20 + row) for row in range(20)}
    assert not pairs - planted_pairs and len(pairs) >= 19


def test_a_threshold_that_is_given_is_not_rounded() -> None:
    assert calibrate(held(products(1)), 0.9999).min_similarity == 0.9999


def test_one_defect_counts_and_saving_the_board_again_does_not() -> None:
    first, second = boards(2)
    own, others = held([first, first]), held([second, saved(first, 60)])
    rows = np.arange(2)
    apart, again = own.similarity(others, rows, rows)
    assert apart < LEAST < duplicates.MIN_SIMILARITY < again


def test_what_was_cut_to_another_shape_and_squeezed_is_near_where_it_is_full_of_detail() -> None:
    """As thumbnails of one photograph are. Boxes are not: such a stretch makes any two alike."""
    draw = np.random.default_rng(2)
    full = [resized(draw.integers(0, 256, (24, 24, 3), np.uint8), 96, 96) for _ in range(8)]
    rows = np.arange(8)
    for pictures, near in ((full, True), (products(8), False)):
        cut = [resized(x[:, len(x) // 10 : -len(x) // 10], 96, 96) for x in pictures]
        own, copies = held(pictures), held(cut)
        assert ((own.similarity(copies, rows, rows) > LEAST) == near).mean() > 0.8
        assert own.similarity(copies, rows, np.roll(rows, 1)).max() < LEAST


def test_fits_against_loops() -> None:
    draw = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 3, len(ZOOMS), SIDE, SIDE, generator=draw)
    first[0, 0] = second[0, 1].roll((1, -2), (0, 1)).flip(1)  # a part of the second: shifted, mirrored
    for pair, (a, b) in enumerate(zip(first, second, strict=True)):
        best = -1.0
        for mine, theirs in ((0, 0), (0, 1), (0, 2), (1, 0), (2, 0)):
            for other in (b[theirs], b[theirs].flip(1)):
                core = other[2:14, 2:14].flatten()
                for top in range(5):
                    for left in range(5):
                        window = a[mine, top : top + 12, left : left + 12].flatten()
                        best = max(best, float(torch.nn.functional.cosine_similarity(window, core, dim=0)))
        found = fits(a[None], b[None])
        assert float(found.score[0, 0]) == pytest.approx(best, abs=1e-5), pair
    ax, tx, ay, ty = fits(first[:1], second[:1]).place[0, 0].tolist()
    assert (ax, ay) == pytest.approx((-ZOOMS[1], ZOOMS[1]))
    assert (abs(tx), ty) == pytest.approx((2 * ZOOMS[1] / 8, -ZOOMS[1] / 8))


def test_a_missing_picture_and_one_of_one_colour_are_like_nothing() -> None:
    picture, plain = large(1)[0], np.full((50, 50, 3), 90, np.uint8)
    some: list[Picture | None] = [picture, None, None, plain, plain]
    images = Collection(np.ones((5, 2), np.float32), [""] * 5, lambda rows: [some[row] for row in rows])
    first, second = np.array([0, 1, 0, 3]), np.array([1, 2, 3, 4])
    assert images.similarity(images, first, second).tolist() == [0, 0, 0, 0]


def test_the_place_that_differs_most_is_what_counts() -> None:
    picture = large(1)[0]
    marked = picture.copy()
    marked[40:52, 40:52] = 255 - marked[40:52, 40:52]
    pictures = [picture, marked, picture]
    known = structure(read(pictures), 3)
    rows = torch.tensor([0, 0])
    found = differences([picture, picture], [marked, picture], fits(known[rows], known[[1, 2]]))
    assert found[0] > 0.5 and found[1] == pytest.approx(0, abs=1e-3)
    assert torch.equal(squeezed(picture, 96), torch.from_numpy(picture / np.float32(255)).permute(2, 0, 1))


def test_a_background_is_taken_off_features() -> None:
    draw = np.random.default_rng(0)
    own = draw.standard_normal((200, 16)).astype(np.float32)
    common = 30 * draw.standard_normal((200, 1)) * draw.standard_normal((1, 16)) + 50
    x = (own + common).astype(np.float32)
    left, same = duplicates.centred(x)
    assert torch.equal(left, same)
    cosine = torch.nn.functional.normalize(left, dim=1) @ torch.nn.functional.normalize(left, dim=1).T
    assert cosine.fill_diagonal_(0).abs().max() < 0.95


def test_only_the_mean_is_taken_off_where_no_direction_is_common_or_nothing_would_be_left() -> None:
    draw = np.random.default_rng(1)
    even = (draw.standard_normal((400, 40)) + 10 * np.eye(40)[0]).astype(np.float32)
    lean = (draw.standard_normal((400, 1)) * draw.standard_normal((1, 40)) + 3).astype(np.float32)
    for x in (even, lean):
        for left in duplicates.centred(x):
            np.testing.assert_allclose(left, x - x.mean(0), atol=1e-4)


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
    many = [saved(picture, 50 + number) for number in range(25)]
    x = np.random.default_rng(0).standard_normal((25, 3)) * 0.05 + 1
    found = duplicates.duplicate_groups(held(many, x), list(range(25)))
    assert len(found.rows) == 25 and found.group.max() == 0 and found.rows[0] == 24


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
    found = duplicates.duplicate_pairs(mine, theirs, LEAST)
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

"""What one side of a split tells of the other: groups stay whole, and near-copies are found."""

import io

import numpy as np
import pytest
from PIL import Image

from nearfar.core.errors import NearfarError
from nearfar.data import cache
from nearfar.data.groups import read_groups
from nearfar.data.source import from_array
from nearfar.data.sources import open_source
from nearfar.demo import drawings, gallery
from nearfar.evaluation.leaks import near_copies
from nearfar.features.probes import validation_split


def test_validation_takes_whole_groups_in_proportion():
    draw = np.random.default_rng(0)
    groups = np.repeat(np.arange(100), 5)
    labels = np.where(draw.random(500) < 0.9, groups % 2, 1 - groups % 2)
    validation = validation_split(labels, ("a", "b"), 0, groups)
    assert set(groups[validation]) & set(groups[~validation]) == set()
    for k in range(2):
        assert 0.15 < validation[labels == k].mean() < 0.25
    assert np.array_equal(validation, validation_split(labels, ("a", "b"), 0, groups))
    assert not np.array_equal(validation, validation_split(labels, ("a", "b"), 1, groups))
    assert not validation_split(labels, ("a", "b"), 0, np.zeros(500, np.int64)).any()


@pytest.mark.parametrize(
    ("labels", "groups", "low", "high"),
    [
        (np.arange(36) // 12, np.arange(36) // 6, 18, 18),  # two groups a class: one is held out
        (np.arange(100_000) % 3, np.arange(100_000) * 9 // 100_000, 11_000, 11_200),  # one of nine
        (np.arange(1_000_000) % 3, np.arange(1_000_000) * 50 // 1_000_000, 20_000, 20_000),
        (np.arange(40) % 2, np.arange(40) // 2, 8, 8),
        (np.array([0, 1, 0, 2]), np.array([0, 0, 1, 1]), 2, 2),  # each group holds the only images of a class
        (np.arange(30) // 10, np.arange(30) // 10, 0, 0),  # a class a group: there is nothing to hold out
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_few_large_groups_are_held_out_too(labels, groups, low, high, seed):
    validation = validation_split(labels, ("a", "b", "c"), seed, groups)
    assert low <= validation.sum() <= high
    assert set(groups[validation]) & set(groups[~validation]) == set()
    shared = [c for c in range(3) if len(set(groups[labels == c])) > 1]
    assert set(shared) <= set(labels[~validation])


def test_groups_are_read_by_path_and_by_name(tmp_path):
    from PIL import Image

    for side in ("train", "test"):
        (tmp_path / side / "cat").mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / side / "cat" / "1.png")
    (tmp_path / "p.csv").write_text("path,patient\ntrain/cat/1.png,ann\ntest/cat/1.png,bob\n")
    sources = [open_source(tmp_path / side, labels=True) for side in ("train", "test")]
    sides = [(source, source.ids) for source in sources]
    assert [item.tolist() for item in read_groups(tmp_path / "p.csv").numbers(sides)] == [[0], [1]]
    (tmp_path / "q.csv").write_text("id,whoever\ncat/1.png,ann\n")
    listed = read_groups(tmp_path / "q.csv")
    assert listed.numbers(sides[:1])[0].tolist() == [0]
    with pytest.raises(NearfarError, match="a training image and a test image"):
        listed.numbers(sides)
    (tmp_path / "r.csv").write_text("id,group\ndog/1.png,ann\n")
    with pytest.raises(NearfarError, match="no group for cat/1.png"):
        read_groups(tmp_path / "r.csv").numbers(sides)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "columns|column"),
        ("path,x,y\na,b,c\n", "name them 'path' and 'group'"),
        ("path,group\na,\n", "line 2: an image or its group is missing"),
        ("path,group\na,1\na,2\n", "line 3: a is in two groups, '1' and '2'"),
    ],
)
def test_a_list_of_groups_that_cannot_be_used_is_a_sentence(tmp_path, text, says):
    (tmp_path / "g.csv").write_text(text)
    with pytest.raises(NearfarError, match=says):
        read_groups(tmp_path / "g.csv")
    with pytest.raises(NearfarError, match="cannot be read"):
        read_groups(tmp_path / "none.csv")


ALTERED = {
    "lost a border, lighter": gallery.near_copy,
    "saved badly": lambda x: np.asarray(Image.open(io.BytesIO(gallery.encode(x, "jpg", quality=30)))),
    "mirrored": lambda x: x[:, ::-1].copy(),
    "darker": lambda x: (0.6 * x).astype(np.uint8),
    "grayscale": lambda x: np.repeat(np.asarray(Image.fromarray(x).convert("L"))[:, :, None], 3, 2),
    "shifted": lambda x: np.roll(x, 5, 1),  # by two of the pixels that are compared
    "small and back": lambda x: np.asarray(
        Image.fromarray(x).resize((24, 24), Image.Resampling.BICUBIC).resize(x.shape[1::-1])
    ),
}


def held(pixels):
    """Pictures as a store."""
    return cache.load(
        from_array("pictures", pixels, None, first=False),
        short_side=None,
        max_pixels=10**6,
        max_bad=0.0,
        threads=1,
    )


def test_near_copies_are_found_and_distinct_pictures_are_not():
    pictures = np.concatenate([drawings.draw(form, 8, 0, "leaks") for form in drawings.FORMS])
    rest, train = np.split(np.random.default_rng(0).permutation(len(pictures)), 2)
    originals = held(pictures[train])
    everyone = np.tile(np.arange(len(train)), (len(rest), 1))
    assert near_copies(held(pictures[rest]), originals, everyone).known.mean() <= 0.01
    own = np.arange(len(train))
    copies = [alter(picture) for alter in ALTERED.values() for picture in pictures[train]]
    candidates = np.tile(np.stack([own[::-1], own], axis=1), (len(ALTERED), 1))
    copies += [np.rot90(picture) for picture in pictures[train]]  # which structure alone finds
    candidates = np.concatenate([candidates, np.zeros((len(train), 2), np.int64)])
    found = near_copies(held(np.stack(copies)), originals, candidates)
    for what, rows in zip([*ALTERED, "turned"], found.row.reshape(-1, len(train)), strict=True):
        assert (rows == own).mean() >= 0.95, what
    assert not found.same.any()
    same = near_copies(originals, originals, np.zeros((len(train), 1), np.int64))
    assert same.same.all() and np.array_equal(same.row, np.arange(len(train)))


def test_validation_images_are_a_fixed_share_of_every_class():
    labels = np.array([0] * 100 + [1] * 10 + [2])
    held = validation_split(labels, ("a", "b", "c"), 0)
    assert [int(held[labels == k].sum()) for k in range(3)] == [20, 2, 0]
    assert np.array_equal(held, validation_split(labels, ("a", "b", "c"), 0))
    assert not np.array_equal(held, validation_split(labels, ("a", "b", "c"), 1))

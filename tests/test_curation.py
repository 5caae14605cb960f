"""A balanced part of a collection: rare things are more frequent in it than in the whole."""

import numpy as np
import pytest

from nearfar.analysis import curation
from nearfar.core.errors import NearfarError

SIZES = (1200, 300, 80, 40)


@pytest.fixture(scope="module")
def skewed():
    """Four kinds, of which one makes three quarters."""
    draw = np.random.default_rng(0)
    kind = np.repeat(np.arange(len(SIZES)), SIZES)
    x = draw.normal(size=(len(SIZES), 16))[kind] + 0.3 * draw.normal(size=(len(kind), 16))
    return x.astype(np.float32), kind


def test_rare_kinds_are_chosen_more_often_than_at_random(skewed):
    x, kind = skewed
    found = curation.balanced(x, 120)
    counts = np.bincount(kind[found.rows], minlength=4)
    at_random = 120 * np.bincount(kind) / len(kind)
    assert counts.sum() == 120 and len({*found.rows.tolist()}) == 120
    assert (counts[2:] > 3 * at_random[2:]).all() and counts[0] < 0.7 * at_random[0]
    before, after = found.largest
    assert after < before and found.cluster.shape == kind.shape


def test_the_same_seed_chooses_the_same_and_another_seed_others(skewed):
    x, _ = skewed
    first, again, other = (curation.balanced(x, 50, seed).rows.tolist() for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize("count", [1, 7, 1620])
def test_any_number_can_be_chosen(skewed, count):
    assert len(curation.balanced(skewed[0], count).rows) == count


@pytest.mark.parametrize("many", [1, 3, 15, 40])
def test_few_images_and_images_alike_can_be_chosen_from(many):
    x = np.ones((many, 4), np.float32)
    assert len({*curation.balanced(x, many).rows.tolist()}) == many


@pytest.mark.parametrize("count", [0, -1, 1621])
def test_more_than_there_are_is_refused(skewed, count):
    with pytest.raises(NearfarError, match="give 1 to 1,620"):
        curation.balanced(skewed[0], count)


def test_a_number_is_shared_out_evenly_as_far_as_it_goes():
    for seed in range(30):
        draw = np.random.default_rng(seed)
        sizes = draw.integers(0, 9, 7)
        for count in range(int(sizes.sum()) + 1):
            given, slow = curation.share(count, sizes), np.zeros(7, int)
            for _ in range(count):  # one at a time, to whoever has the least and still can take one
                able = np.flatnonzero(slow < sizes)
                slow[able[np.argmin(slow[able])]] += 1
            assert given.sum() == count and (given <= sizes).all()
            assert sorted(given.tolist()) == sorted(slow.tolist())

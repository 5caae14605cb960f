"""Intervals of shares, and tests, over single images and over groups, such as the slices of a patient."""

import itertools

import numpy as np
import pytest

from nearfar.core.intervals import FEW_GROUPS, ends, few_groups, resampling_weights, sign_test, wilson
from nearfar.evaluation.accuracy import Accuracy
from nearfar.evaluation.differences import compare
from nearfar.evaluation.pair_recall import _recall
from nearfar.finetuning.outcome import difference
from nearfar.finetuning.task_types import Figures


def test_the_interval_of_a_share_is_wilsons() -> None:
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
    known = {(81, 263): (0.2553, 0.3662), (15, 148): (0.0624, 0.1605), (0, 20): (0, 0.1611)}
    known[1, 29] = (0.0061, 0.1718)
    for (right, count), between in known.items():
        assert wilson(right, count) == pytest.approx(between, abs=5e-5)
    low, high = wilson(10, 10)
    assert low == pytest.approx(10 / (10 + 1.959964**2)) and high == 1


def test_groups_are_drawn_whole_and_single_images_as_without_groups() -> None:
    groups = np.array([7, 7, 3, 5, 3, 7])
    weights = resampling_weights(6, 400, 1, groups)
    assert (weights[:, 0] == weights[:, 1]).all() and (weights[:, 2] == weights[:, 4]).all()
    assert (weights[:, [0, 2, 3]].sum(1) == 3).all()  # three groups are drawn each time
    assert np.array_equal(resampling_weights(6, 9, 1, np.arange(6)), resampling_weights(6, 9, 1))


def test_an_interval_over_groups_covers_the_truth_as_often_as_it_says() -> None:
    # 20 patients of 10 slices each, of whom 70 % are right, whole: the slices tell the same ten times.
    draws, covered, narrow = np.random.default_rng(0), 0, 0
    groups = np.repeat(np.arange(20), 10)
    for _ in range(300):
        right = np.repeat(draws.random(20) < 0.7, 10)
        one, other = Accuracy.of(right, groups), Accuracy.of(right)
        covered += one.low <= 0.7 <= one.high
        narrow += other.low <= 0.7 <= other.high
    assert covered > 0.88 * 300 and narrow < 0.6 * 300


def test_one_group_is_no_certainty_and_few_groups_are_told_of() -> None:
    right, wrong = np.arange(60) % 4 > 0, np.arange(60) % 3 > 0
    same, truth = np.zeros(60, np.int64), np.ones(60, np.int64)
    for all_right in (True, False):  # of few groups that all agree, no interval is a point
        one = Accuracy.of(np.full(60, all_right), np.repeat(np.arange(3), 20))
        assert (one.low, one.high) == wilson(3 * all_right, 3) and one.high - one.low > 0.5
    assert Accuracy.of(right, same) == Accuracy.of(right)  # there is no other group to draw
    answers = right.astype(np.int64), wrong.astype(np.int64)
    assert compare(truth, *answers, 0, same) == compare(truth, *answers, 0)
    figures = [Figures("accuracy", {"accuracy": 0.5}, row.astype(float), {}, same) for row in (right, wrong)]
    assert difference(*figures)[1] > 0.05
    assert "all test clips are of one group" in few_groups(same, "clips")
    assert "of 3 groups" in few_groups(np.arange(60) % 3, "clips")
    assert not few_groups(np.arange(60) % FEW_GROUPS, "clips") and not few_groups(None, "clips")
    draws, covered = np.random.default_rng(0), 0
    for _ in range(200):  # what is said of three groups
        groups = np.repeat(np.arange(3), 20)
        shares = np.where(draws.random(3) < 0.7, 0.9, 0.1)
        one = Accuracy.of(draws.random(60) < shares[groups], groups)
        covered += one.low <= 0.66 <= one.high
    assert covered < 0.8 * 200


@pytest.mark.parametrize("sums", [[1.0, 1, 1, -1], [2.0, -1, 3, 0, 0.5], [1.0]])
def test_signs_are_counted_as_a_loop_counts_them(sums) -> None:
    some = [value for value in sums if value]
    far = [
        abs(sum(sign * value for sign, value in zip(signs, some, strict=True))) >= abs(sum(some)) - 1e-9
        for signs in itertools.product((1, -1), repeat=len(some))
    ]
    assert sign_test(np.array(sums), 0) == pytest.approx(np.mean(far))
    assert sign_test(np.zeros(5), 0) == 1.0


def test_signs_of_single_images_are_mcnemars_exact_test() -> None:
    truth = np.zeros(30, np.int64)
    first, second = truth.copy(), truth.copy()
    second[:9], first[28:] = 1, 1
    exact = compare(truth, first, second, 0)
    mirrored = compare(truth, second, first, 0)
    assert (mirrored.low, mirrored.high) == (-exact.high, -exact.low)
    apart = (first == truth).astype(float) - (second == truth)
    assert sign_test(apart, 0) == pytest.approx(exact.p)
    many = np.concatenate([np.ones(40), -np.ones(20)])  # too many to try all
    assert sign_test(many, 0) == pytest.approx(0.0135, abs=0.004)  # binomial, 40 of 60


def test_a_difference_in_one_patient_alone_is_no_difference() -> None:
    truth = np.zeros(100, np.int64)
    groups = np.repeat(np.arange(10), 10)
    first, second = truth.copy(), truth.copy()
    second[:10] = 1  # all ten slices of one patient
    alone = compare(truth, first, second, 0)
    assert alone.outcome == "better" and alone.difference == pytest.approx(0.1)
    whole = compare(truth, first, second, 0, groups)
    assert whole.outcome == "no different" and whole.difference == alone.difference and whole.p == 1.0
    figures = [
        Figures("accuracy", {"accuracy": 0.0}, (one == truth).astype(float)) for one in (first, second)
    ]
    gain, error = difference(*figures)
    assert gain - error > 0
    figures = [Figures("accuracy", {}, one.per_image, groups=groups) for one in figures]
    gain, error = difference(*figures)
    assert gain == pytest.approx(0.1) and gain - error < 0
    spread = [float(one @ np.repeat([1, 0], 50)) / 50 for one in resampling_weights(100, 500, 0, groups)]
    assert ends(np.array(spread))[0] < 1 < ends(np.array(spread))[1]


def test_a_difference_in_every_patient_is_one_and_has_its_sign() -> None:
    truth, groups = np.zeros(60, np.int64), np.repeat(np.arange(12), 5)
    second = ((np.arange(60) % 5 == 0) | (groups % 2 == 1)).astype(np.int64)  # one of five wrong, or all
    found, turned = compare(truth, truth, second, 0, groups), compare(truth, second, truth, 0, groups)
    assert found.difference == pytest.approx(0.6) and 0.2 <= found.low < 0.6 < found.high <= 1
    assert (found.outcome, turned.outcome) == ("better", "worse")
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low), abs=0.1)


def test_of_scores_that_are_equal_the_wrong_one_counts_as_first() -> None:
    table = np.ones((3, 3))
    table[0, 0] = 2  # found both ways, and each of the others is third
    found = _recall(table, np.eye(3, dtype=bool))
    assert found.image == found.text == pytest.approx((1 / 3, 1, 1))


def test_a_few_images_that_all_agree_are_no_proof() -> None:
    for count, outcome in ((4, "no different"), (5, "no different"), (6, "better")):
        truth = np.zeros(count, np.int64)
        found = compare(truth, truth, truth + 1, 0)
        assert (found.low, found.high, found.p) == (1, 1, 2 / 2**count)  # the bootstrap has no width
        assert found.outcome == outcome


def test_captions_of_one_image_are_no_independent_questions() -> None:
    own = np.repeat(np.arange(40), 5)  # five captions of each of forty images, of which half are found
    right = own[None] == np.arange(40)[:, None]
    table = np.where(right, np.where(np.arange(40) % 2, 1.0, -1.0)[:, None], 0.0)
    several, one = _recall(table, right), _recall(table[:, ::5], right[:, ::5])
    assert several.image == one.image == (0.5, 0.5, 0.5)
    assert (one.low, one.high) == wilson(20, 40)
    assert several.high - several.low == pytest.approx(one.high - one.low, rel=0.1)

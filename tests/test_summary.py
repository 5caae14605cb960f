"""The sentence of an evaluation, from answers whose differences are known."""

from __future__ import annotations

import numpy as np
import pytest

from nearfar.evaluation.summary import summarise

TRUTH = np.zeros(1000, np.int64)
TITLES = {"knn": "k-NN", "linear": "linear"}


def right(first: int, last: int = 1000) -> np.ndarray:
    """Answers that are right for the images from `first` to `last`."""
    made = np.ones(1000, np.int64)
    made[first:last] = 0
    return made


def told(**answers: np.ndarray) -> str:
    return str(summarise(TRUTH, {"knn": {**answers, "chance": right(900)}}, TITLES, 0)["knn"])


def test_the_sentence_names_the_untrained_network_and_the_strongest_on_each_side() -> None:
    found = summarise(
        TRUTH,
        {
            "knn": {
                "encoder": right(400),  # 60 %
                "pixels": right(700),  # 30 %, beaten
                "pca": right(650),  # 35 %, beaten too: the strongest of these
                "colours": right(300),  # 70 %, not beaten: the strongest of those
                "patches": right(380),  # 62 %, not beaten either
                "untrained": right(500),  # 50 %
                "chance": right(0),  # is no baseline to boast of
            }
        },
        TITLES,
        0,
    )
    assert list(found) == ["knn"]
    compared = {item.baseline: item for item in found["knn"].comparisons}
    assert next(iter(compared)) == "colours" and set(compared) == {
        "pixels", "pca", "colours", "patches", "untrained"
    }  # fmt: skip
    untrained, colours, pca = (compared[name].difference for name in ("untrained", "colours", "pca"))
    # 100 of 1,000 images are won and none is lost: the binomial interval of a tenth.
    assert untrained.difference == pytest.approx(0.1)
    assert untrained.low == pytest.approx(0.081, abs=0.003) and untrained.high == pytest.approx(
        0.119, abs=0.003
    )
    assert str(found["knn"]) == (
        f"k-NN: better than an untrained network by 10.0 points "
        f"({100 * untrained.low:.1f} to {100 * untrained.high:.1f}); "
        f"worse than a colour histogram by 10.0 ({-100 * colours.high:.1f} to {-100 * colours.low:.1f}); "
        f"better than principal components by 25.0 ({100 * pca.low:.1f} to {100 * pca.high:.1f})"
    )
    plain = found["knn"].to_json()
    assert plain["sentence"] == str(found["knn"])
    assert [item["outcome"] for item in plain["against"]] == ["worse", "worse", "better", "better", "better"]
    assert plain["against"][2]["words"].startswith("better than an untrained network by 10.0 points (")


def test_an_interval_that_holds_0_is_no_difference() -> None:
    # Each is right where the other is wrong, for 100 and 95 images.
    encoder, other = right(0, 500), right(0, 400)
    other[500:595] = 0
    assert told(encoder=encoder, untrained=other).startswith(
        "k-NN: no different from an untrained network (-"
    )
    assert told(encoder=encoder, untrained=other).endswith(" points)")
    same = told(encoder=encoder, untrained=encoder)
    assert same == "k-NN: no different from an untrained network (0.0 to 0.0 points)"


def test_worse_is_written_with_its_interval_the_right_way_round() -> None:
    text = told(encoder=right(600), untrained=right(500))
    assert text.startswith("k-NN: worse than an untrained network by 10.0 points (8.")
    low, high = text.rsplit("(", 1)[1].rstrip(")").split(" to ")
    assert 8 < float(low) < 10 < float(high) < 12


@pytest.mark.parametrize(("count", "told"), [(1, "1"), (2, "0.5"), (5, "0.062")])
def test_a_few_images_tell_nothing(count: int, told: str) -> None:
    """Every image is won: the bootstrap has no width, and a coin does the same with probability 2 / 2^n."""
    truth, wrong = np.zeros(count, np.int64), np.ones(count, np.int64)
    for mine, other, sign in ((truth, wrong, ""), (wrong, truth, "-")):
        found = summarise(truth, {"knn": {"encoder": mine, "untrained": other}}, TITLES, 0)["knn"]
        assert str(found) == (
            f"k-NN: no different from an untrained network ({sign}100.0 points, too few to tell: p = {told})"
        )
        assert found.to_json()["against"][0]["outcome"] == "no different"
    six = summarise(np.zeros(6), {"knn": {"encoder": np.zeros(6), "untrained": np.ones(6)}}, TITLES, 0)["knn"]
    assert str(six) == "k-NN: better than an untrained network by 100.0 points (100.0 to 100.0)"


def test_without_baselines_there_is_no_sentence() -> None:
    assert summarise(TRUTH, {"knn": {"encoder": right(0), "chance": right(900)}}, TITLES, 0) == {}

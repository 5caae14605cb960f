"""What fine-tuning computes beside training: folds, weights, temperature, figures, verdict."""

import json
from itertools import permutations
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nearfar.analysis.chance import chance_precision
from nearfar.core.errors import NearfarError
from nearfar.finetuning import calibrate, class_figures, linear_fit, outcome, soft_labels
from nearfar.finetuning.class_answers import NONE
from nearfar.finetuning.classify import Classification, Predicting
from nearfar.finetuning.many_labels import read_many
from nearfar.finetuning.task_types import Figures


def test_the_lists_of_several_labels(tmp_path) -> None:
    path = tmp_path / "l.csv"
    path.write_text("image,tags\na.png,cat; dog\nb.png,\n")
    assert {name: read_many(path)[name] for name in ("a.png", "b.png")} == {
        "a.png": ("cat", "dog"),
        "b.png": (),
    }
    path.write_text("image,tags\na.png,cat\u00a0;cat\u200b;-1\nb.png,nan\n")
    assert {name: read_many(path)[name] for name in ("a.png", "b.png")} == {"a.png": ("cat",), "b.png": ()}
    path.write_text("image,cat,dog\na.png,1,0\nb.png,1,1\n")
    assert {name: read_many(path)[name] for name in ("a.png", "b.png")} == {
        "a.png": ("cat",),
        "b.png": ("cat", "dog"),
    }
    path.write_text("image,cat,dog\na.png,1,yes\n")
    with pytest.raises(NearfarError, match="line 2: dog is 'yes'"):
        read_many(path)
    path.write_text("cat,dog\n1,1\n")
    with pytest.raises(NearfarError, match="has no column of paths"):
        read_many(path)


def test_folds_keep_groups_and_classes() -> None:
    y = torch.arange(40) % 4
    fold = linear_fit.folds(y, 0, None)
    assert np.ptp([np.bincount(fold[y.numpy() == kind], minlength=4) for kind in range(4)]) <= 1
    groups = np.arange(40) // 5
    fold = linear_fit.folds(y, 0, groups)
    assert all(len(np.unique(fold[groups == one])) == 1 for one in range(8))
    pairs = np.concatenate([np.arange(39), [38]])  # of which one is a pair of copies
    y = torch.arange(20).repeat_interleave(2)
    for seed in range(4):  # both images of a class in one fold would never be told
        fold = linear_fit.folds(y, seed, pairs)
        assert fold[38] == fold[39] and (fold[:38:2] != fold[1:38:2]).all()


def test_a_fold_whose_others_are_all_of_one_class_is_taken_for_that_class() -> None:
    """With no answer at all, the only image of the first class would count as right."""
    y = torch.tensor([0] + [1] * 20)
    x = torch.randn(21, 3, generator=torch.Generator().manual_seed(0))
    found = linear_fit.crossed(linear_fit.LabelledVectors(x, y, 2), 0)
    assert found is not None and (found[1].argmax(1) == 1).all()


def test_a_sure_network_turns_away_no_more_than_was_asked_for_after_its_card_is_read() -> None:
    draw = np.random.default_rng(0)

    def some(count: int) -> tuple[np.ndarray, SimpleNamespace]:
        y = draw.integers(0, 2, count)
        logits = draw.normal(0, 0.1, (count, 2)).astype(np.float32)
        logits[np.arange(count), y] += 1.1
        return logits, SimpleNamespace(targets=y, dataset=SimpleNamespace(modality="images"))

    task, again = Classification(), Classification()
    task.classes = ("a", "b")
    task.calibrate(some(50), some(50))  # told apart without a mistake, so that probabilities are nearly 1
    again.restore(json.loads(json.dumps(task.card())), "")
    again.prepare(Predicting(reject=0.1))
    refused = [again.rows(logits)[0][0] == NONE for logits in some(400)[0]]
    assert again.least is not None and 0 < np.mean(refused) < 0.2


def test_a_loss_of_nothing_is_not_less_than_nothing() -> None:
    sure = np.where(np.eye(4, dtype=bool), 1e4, -1e4)
    one = class_figures.of_classes(sure, np.arange(4), tuple("abcd"), 1.0)
    many = class_figures.of_labels(sure, np.eye(4, dtype=bool), tuple("abcd"), 1.0)
    assert [f"{found.values['log_loss']:.3f}" for found in (one, many)] == ["0.000", "0.000"]


def test_weights_make_a_rare_class_count() -> None:
    generator = torch.Generator().manual_seed(0)
    y = (torch.arange(400) % 20 == 0).long()
    x = torch.randn(400, 6, generator=generator) + 0.7 * y[:, None]
    weights = linear_fit.class_weights(y, 2)
    assert (
        torch.allclose(weights, torch.tensor([400 / 760, 10.0])) and abs(float(weights[y].mean()) - 1) < 1e-6
    )
    recalls = []
    for given in (None, weights[y]):
        fit = linear_fit.at_strength(linear_fit.LabelledVectors(x, y, 2, given), 1e-3)
        recalls.append(float((fit.logits(x).argmax(1)[y == 1] == 1).float().mean()))
    assert recalls[0] < 0.6 < recalls[1]


def test_temperature_undoes_overconfidence() -> None:
    draw = np.random.default_rng(0)
    logits = draw.normal(0, 1.5, (4000, 5))
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    truth = np.array([draw.choice(5, p=share) for share in shares])
    assert abs(calibrate.temperature((3 * logits).astype(np.float32), truth) - 3) < 0.2
    several = (draw.random((4000, 5)) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    assert abs(calibrate.temperature((2 * logits).astype(np.float32), several) - 2) < 0.15


def test_few_images_without_a_mistake_leave_some_doubt() -> None:
    truth = np.arange(20) % 3
    logits = np.eye(3, dtype=np.float32)[truth]
    least = [
        calibrate.probabilities(many, calibrate.temperature(many, given), len(given.shape) == 2).max(1).mean()
        for many, given in ((logits, truth), (2 * logits - 1, logits))
    ]
    assert min(least) > 0.9 and max(least) < 0.98


def test_no_image_is_judged_by_a_temperature_that_was_fitted_on_it() -> None:
    draw = np.random.default_rng(0)
    logits = draw.normal(0, 2, (40, 3)).astype(np.float32)
    truth = (logits + draw.gumbel(0, 1, (40, 3))).argmax(1)
    groups = np.repeat(np.arange(20), 2)
    other = np.where(np.arange(40) < 2, (truth + 1) % 3, truth)  # the first group's labels
    one, two = (calibrate.crossed(logits, labels, groups) for labels in (truth, other))
    assert (one[:2] == two[:2]).all() and (one != two).sum() >= 30
    assert calibrate.crossed(logits[:1], truth[:1])[0] == calibrate.temperature(logits[:1], truth[:1])

    task, many = (
        Classification(),
        SimpleNamespace(targets=truth, groups=groups, dataset=SimpleNamespace(modality="images")),
    )
    task.classes = tuple("abc")
    task.calibrate((logits, many), (logits, many))
    own, fair = (
        class_figures.of_classes(logits, truth, task.classes, by).values for by in (task.temperature, one)
    )
    told = task.measure(list(logits), many).values
    assert own["log_loss"] < told["log_loss"] < own["log_loss"] + 0.2 and told["accuracy"] == own["accuracy"]
    assert fair["log_loss"] > own["log_loss"]


def test_average_precision_is_scikit_learns() -> None:
    from sklearn.metrics import average_precision_score

    draw = np.random.default_rng(0)
    for _ in range(20):
        scores, there = draw.integers(0, 6, 30) / 6, draw.random(30) < 0.3
        if there.any():
            assert (
                abs(class_figures.average_precision(scores, there) - average_precision_score(there, scores))
                < 1e-12
            )


def test_the_chance_of_a_label_is_the_mean_over_all_rankings() -> None:
    for hits, count in ((1, 1), (1, 4), (2, 5), (5, 5)):
        there = np.arange(count) < hits
        orders = [there[list(order)] for order in permutations(range(count))]
        every = [class_figures.average_precision(-np.arange(count), order) for order in orders]
        assert chance_precision(np.array([hits]), np.array([count])) == pytest.approx(np.mean(every))


def test_several_labels_that_everyone_would_guess_are_not_learnt() -> None:
    truth = np.ones((30, 1), np.float32)
    figures = class_figures.of_labels(np.full((30, 1), 4.0, np.float32), truth, ("cat",), 1.0)
    assert figures.score == figures.values["chance"] == 1.0
    verdict = outcome.judge("linear", "test", {outcome.TUNED: figures}, [])
    assert verdict.name == "no better than chance" and "100.0 % by chance" in verdict.reason


def test_resamples_without_a_label_are_no_mean_average_precision_of_zero() -> None:
    truth = np.zeros((12, 2), np.float32)
    truth[0] = 1  # of a third of the resamples none has a label
    logits = np.where(truth > 0, 4.0, -4.0).astype(np.float32)
    values = class_figures.of_labels(logits, truth, ("cat", "dog"), 1.0).values
    assert values["mAP"] == values["low"] == values["high"] == 1.0


def judged(
    tuned: float, frozen: float, images: int = 400, checks: list[dict[str, float]] | None = None
) -> str:
    def figures(share: float, turn: int) -> Figures:
        right = np.roll(np.arange(images) < share * images, turn).astype(float)
        return Figures("accuracy", {"accuracy": float(right.mean()), "chance": 0.25}, right)

    both = {outcome.TUNED: figures(tuned, 0), outcome.FROZEN: figures(frozen, 0)}
    return outcome.judge("full", "test", both, checks or []).name


def test_the_verdict_compares_in_pairs() -> None:
    assert judged(0.9, 0.8) == "learnt"
    assert judged(0.81, 0.81) == "no gain over the frozen encoder"
    assert judged(0.6, 0.8) == "worse than the frozen encoder"
    line = {"step": 10, "held": 0.8, "trained": 0.8, "images": 400}
    assert (
        judged(0.9, 0.8, checks=[line, {**line, "step": 20, "held": 0.6, "trained": 1.0}]) == "over-fitting"
    )
    assert judged(0.9, 0.8, checks=[line, {**line, "step": 20, "held": 0.6, "trained": 0.6}]) == "learnt"


def test_a_detector_that_finds_nothing_has_not_learnt() -> None:
    nothing = Figures("ap50", {"ap50": 0.0}, None, {})
    verdict = outcome.judge("full", "test", {outcome.TUNED: nothing}, [])
    assert verdict.name == "no better than chance" and verdict.bad
    hardly = Figures("ap50", {"ap50": 0.0003, "low": 0.0, "high": 0.003}, None, {})  # shown as 0.0 %
    verdict = outcome.judge("full", "test", {outcome.TUNED: hardly}, [])
    assert verdict.name == "no better than chance" and "--epochs" in verdict.advice
    wide = Figures("accuracy", {"accuracy": 0.67, "chance": 0.33, "low": 0.3, "high": 0.9}, None, {})
    verdict = outcome.judge("linear", "test", {outcome.TUNED: wide}, [])
    assert verdict.name == "not surely better than chance" and "(30.0 to 90.0 %)" in verdict.reason
    better = Figures("ap50", {"ap50": 0.3}, None, {})
    assert outcome.judge("full", "test", {outcome.TUNED: better}, []).name == "learnt"
    worse = outcome.judge("linear", "test", {outcome.TUNED: nothing, "pixels": better}, [])
    assert "take --mode full" in str(worse) and "--epochs" not in str(worse)


def test_the_loss_of_soft_labels_is_the_papers_sum() -> None:
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(4, 3, generator=draw, dtype=torch.float64) for _ in range(2))
    labels, total = [2, -1, -1, 0], 0.0
    for i in range(4):
        q, p = (np.exp(some[i].numpy() / 0.5) for some in (student, teacher))
        p = p / p.sum() if labels[i] < 0 else np.eye(3)[labels[i]]
        total -= sum(p[c] * np.log(q[c] / q.sum()) for c in range(3)) / 4
    assert float(soft_labels.loss(student, teacher, torch.tensor(labels), 0.5)) == pytest.approx(total)
    sure = soft_labels.loss(student, teacher, torch.full((4,), -1), 1e-3)
    hard = torch.nn.functional.cross_entropy(student / 1e-3, teacher.argmax(1))
    assert float(sure) == pytest.approx(float(hard))

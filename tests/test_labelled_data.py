"""The images of an evaluation: copies, groups across the split, and labels that do not fit are told."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_colours import pictures, run  # noqa: F401

from nearfar.core import progress
from nearfar.core.errors import NearfarError
from nearfar.evaluation import paired_tests
from nearfar.evaluation.accuracy import Accuracy
from nearfar.evaluation.evaluate import evaluate


def test_shared_images_are_counted(run):
    pixels, labels = pictures(60, 0)
    found = evaluate(run, train=(pixels, labels), test=(pixels[:9], labels[:9]), device="cpu")
    assert found.images["shared"] == 9 and "warning: 9 test images" in found.table()
    assert found.leaks["near_copies"].without == {} and "no other test image is left" in found.table()


def test_near_copies_are_flagged_and_the_score_without_them_given(run):
    pixels, labels = pictures(120, 0)
    fresh, own = pictures(60, 1)
    lighter = (0.8 * pixels[:20] + 40).astype(np.uint8)
    # Copies with wrong labels: with them the encoder looks worse than it is.
    wrong = [{"red": "green", "green": "blue", "blue": "red"}[name] for name in labels[:20]]
    test = np.concatenate([fresh, lighter]), own + wrong
    found = evaluate(run, train=(pixels, labels), test=test, device="cpu")
    leak = found.leaks["near_copies"]
    assert (leak.images, leak.left, found.images["shared"]) == (20, 60, 0)
    assert {(a, b) for a, b, _ in leak.pairs} == {(str(60 + k), str(k)) for k in range(20)}
    alone = evaluate(run, train=(pixels, labels), test=(fresh, own), device="cpu")
    for classifier in ("knn", "linear"):
        clean = leak.without[classifier]["encoder"]
        assert clean.accuracy == getattr(alone, classifier)["encoder"].accuracy
        assert clean.accuracy > getattr(found, classifier)["encoder"].accuracy
    assert "warning: 20 test images (25.0 %)" in found.table()
    assert alone.leaks["near_copies"].images == 0 and "warning" not in alone.table()


def test_groups_stay_on_one_side_and_leaks_between_them_are_named(run, tmp_path, capsys):
    lines = ["path,patient"]
    for side, seed in (("train", 0), ("test", 1)):
        for number, (image, name) in enumerate(zip(*pictures(90, seed), strict=True)):
            path = tmp_path / side / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
            # Of the test images the first thirty are of patients in training.
            patient = number // 6 if side == "train" or number < 30 else 100 + number // 6
            lines.append(f"{path.relative_to(tmp_path)},{patient}")
    listed = tmp_path / "patients.csv"
    listed.write_text("\n".join(lines))
    how = {"train": tmp_path / "train", "test": tmp_path / "test", "device": "cpu"}
    found = evaluate(run, **how, groups=listed)
    assert found.images["validation"] % 6 == 0
    assert (found.leaks["groups"].images, found.leaks["groups"].left) == (30, 60)
    assert "warning: 30 test images (33.3 %) belong to groups of training images" in found.table()
    new = np.array([int(Path(name).stem) >= 30 for name in found.ids])
    right = found.answers["linear"]["pixels"] == found.truth
    left = Accuracy.of(right[new], found.groups[new])  # without them too, the interval is over patients
    assert found.leaks["groups"].without["linear"]["pixels"] == left
    assert "p (signs of groups)" in paired_tests.pair(["a", "b"], [found, found], 0).table()
    assert "groups" not in evaluate(run, **how).leaks
    listed.write_text("\n".join(lines[:-1]))
    capsys.readouterr()
    progress.show(True)
    with pytest.raises(NearfarError, match="has no group for"):
        evaluate(run, **how, groups=listed)
    progress.show(False)
    assert "fitting" not in capsys.readouterr().err


def test_labels_that_cannot_be_used_are_named(run):
    pixels, labels = pictures(30, 0)
    with pytest.raises(NearfarError, match="purple"):
        evaluate(run, train=(pixels, labels), test=(pixels[:2], ["red", "purple"]), device="cpu")
    with pytest.raises(NearfarError, match="all of class 'red'"):
        evaluate(run, train=(pixels, ["red"] * 30), test=(pixels[:2], ["red"] * 2), device="cpu")
    with pytest.raises(NearfarError, match="two of one class"):
        evaluate(run, train=(pixels[:3], labels[:3]), test=(pixels[:3], labels[:3]), device="cpu")
    with pytest.raises(NearfarError, match=r"\(images, labels\)"):
        evaluate(run, train=pixels, test=pixels, device="cpu")


def test_a_second_data_set_that_is_not_there_is_named_before_anything_is_measured(run, tmp_path, capsys):
    how = {"train": pictures(30, 0), "test": pictures(6, 1), "device": "cpu"}
    progress.show(True)
    nowhere, unlabelled = (tmp_path / "a", tmp_path / "b"), (pictures(6, 2), pictures(3, 2)[0])
    for second, says in ((nowhere, "there is no '.*/a' here"), (unlabelled, r"\(images, labels\)")):
        with pytest.raises(NearfarError, match=says):
            evaluate(run, **how, transfer=second)
    progress.show(False)
    assert "fitting" not in capsys.readouterr().err


def test_a_second_data_set_has_labels_of_its_own(run, tmp_path):
    for name, count, seed in (("a", 30, 0), ("b", 9, 1)):
        for number, (values, label) in enumerate(zip(*pictures(count, seed), strict=True)):
            folder = tmp_path / name / ("all" if name == "a" else f"dark {label}")
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(folder / f"{number}.png")
    # The list is of a; b has files of the same names, other classes, and none of a's folders.
    rows = "".join(f"{number}.png,{label}\n" for number, label in enumerate(pictures(30, 0)[1]))
    (tmp_path / "a.csv").write_text(f"path,label\n{rows}")
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    how = {"labels": tmp_path / "a.csv", "baselines": (), "device": "cpu"}
    found = evaluate(run, train=a, test=a, transfer=(b, b), **how)
    assert found.classes == ("blue", "green", "red")
    second = found.parts["transfer"].evaluation
    assert second.classes == ("dark blue", "dark green", "dark red")


def test_too_many_bad_images_are_named_without_a_flag_that_evaluate_lacks(run, tmp_path):
    pixels, labels = pictures(30, 5)
    for number, (values, label) in enumerate(zip(pixels, labels, strict=True)):
        file = tmp_path / label / f"{number}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(values).save(file)
        if number < 6:
            file.write_bytes(b"no picture")
    with pytest.raises(
        NearfarError, match=r"at least \d of 30 images cannot be used, more than 10%, "
    ) as said:
        evaluate(run, train=tmp_path, test=pictures(9, 6), device="cpu")
    assert "nearfar check" in str(said.value) and "--max-bad" not in str(said.value)

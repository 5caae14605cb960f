"""Which rows make a batch: as ever where they are mixed, and P x K where several of a class are asked for."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import picture
from PIL import Image

import nearfar
from nearfar.core import rng
from nearfar.core.errors import NearfarError
from nearfar.data.loader import DataLoader
from nearfar.data.sampler import ClassBalanced, Shuffled
from nearfar.features.chunked import ragged_chunk
from nearfar.images.view_settings import Views
from nearfar.methods import method, settings

LABELS = np.repeat(np.arange(20), 12)[np.random.default_rng(0).permutation(240)]


def drawn(sampler, step, batch_size=16, labels=LABELS, seed=3):
    return sampler.rows(step, images=len(labels), batch_size=batch_size, seed=seed, labels=labels)


def test_mixed_rows_are_a_fresh_order_every_epoch():
    for epoch in range(2):
        order = rng.permutation(rng.fold(3, "shuffle", epoch), 240)
        rows = [drawn(Shuffled(), 15 * epoch + place) for place in range(15)]
        assert np.array_equal(np.concatenate([row for row, _ in rows]), order)
        assert not any(turns.any() for _, turns in rows)


@pytest.mark.parametrize("per_class", [1, 2, 4, 16])
def test_a_batch_is_p_classes_of_k_images(per_class):
    seen = []
    for step in range(40):
        rows, _ = drawn(ClassBalanced(per_class), step)
        assert len(rows) == 16
        kinds, counts = np.unique(LABELS[rows], return_counts=True)
        assert len(kinds) == 16 // per_class and (counts == per_class).all()
        assert per_class > 12 or len(set(rows)) == 16  # a class has 12
        seen.append(kinds)
    assert len(set(np.concatenate(seen))) > 15


def test_few_classes_share_a_batch_evenly():
    labels = np.arange(90) % 3
    for step in range(8):
        rows, turns = drawn(ClassBalanced(2), step, batch_size=16, labels=labels)
        assert sorted(np.bincount(labels[rows])) == [5, 5, 6] and len(set(rows)) == 16
    # 30 of a class in pieces of 6: an epoch of 5 steps goes through a class's images once.
    rows = np.concatenate([drawn(ClassBalanced(2), step, 16, labels)[0] for step in range(5)])
    assert len(set(rows)) == 80


def test_a_small_class_repeats_only_when_it_must_and_each_time_by_another_name():
    labels = np.repeat([0, 1, 2], [2, 5, 41])
    names = set()
    for step in range(6):  # an epoch
        rows, turns = drawn(ClassBalanced(4), step, batch_size=8, labels=labels)
        for kind, size in enumerate([2, 5, 41]):
            own = rows[labels[rows] == kind]
            assert len(own) in (0, 4) and len(set(own)) == min(size, len(own))
        names |= set(zip(rows.tolist(), turns.tolist(), strict=True))
    assert len(names) == 48  # no image came twice by one name


def test_a_step_is_the_same_whatever_came_before_it():
    first = [drawn(ClassBalanced(4), step) for step in range(40)]
    for step in (39, 3, 17):
        assert all(
            np.array_equal(a, b) for a, b in zip(drawn(ClassBalanced(4), step), first[step], strict=True)
        )
    assert not np.array_equal(first[0][0], first[15][0])  # another epoch
    assert not np.array_equal(first[0][0], drawn(ClassBalanced(4), 0, seed=4)[0])
    halves = [len(np.unique(LABELS[rows[:8]])) for rows, _ in first]
    assert min(halves) > 2 or np.mean(halves) > 3  # classes are mixed within a batch


class Pictures:
    def __init__(self, count):
        self.all = [picture(number) for number in range(count)]

    def __len__(self):
        return len(self.all)

    def gather(self, rows):
        return ragged_chunk(range(len(rows)), [self.all[row] for row in rows]).gather(np.arange(len(rows)))


def test_processes_share_a_batch_and_a_repeated_image_gets_other_views():
    labels = np.array([0, 0, 1, 1, 1, 1, 1, 1])
    how = {"size": 8, "batch_size": 8, "seed": 0, "labels": labels, "sampler": ClassBalanced(4)}
    whole = DataLoader(Pictures(8), (Views(),), **how).make(0)
    parts = [DataLoader(Pictures(8), (Views(),), rank=rank, world=2, **how).make(0) for rank in range(2)]
    rows = whole.rows.tolist()
    assert rows == [row for part in parts for row in part.rows.tolist()]
    assert whole.labels.tolist() == labels[rows].tolist() and sorted(rows)[:4] == [0, 0, 1, 1]
    first, second = (number for number, row in enumerate(rows) if row == 0)
    assert not whole.views[0][first].equal(whole.views[0][second])
    both = [view for part in parts for view in part.views[0]]
    assert all(a.equal(b) for a, b in zip(whole.views[0], both, strict=True))


def test_a_run_by_classes_resumes_and_refuses_what_it_cannot_do(tmp_path):
    for number in range(48):
        folder = tmp_path / "data" / f"kind{number % 6}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(number, kind=number % 4)).save(folder / f"{number}.png")
    how = {"out": tmp_path / "run", "encoder": "resnet10_w16", "batch_size": 16, "steps": 5, "head": (16, 8)}
    how |= {"precision": "float32", "health_checks": 0, "workers": 1, "device": "cpu"}
    run = nearfar.pretrain(tmp_path / "data", method="supcon", per_class=4, **how)
    assert run.config["settings"]["per_class"] == 4 and len(run.log()) == 5
    with pytest.raises(NearfarError, match="--per-class 4 became 0"):
        nearfar.pretrain(tmp_path / "data", method="supcon", **how)
    with pytest.raises(NearfarError, match="add --pairs labels"):
        nearfar.pretrain(tmp_path / "data", method="triplet", per_class=4, **how | {"out": tmp_path / "no"})
    with pytest.raises(NearfarError, match="--per-class is 17, more than the 16 images of a batch"):
        nearfar.pretrain(tmp_path / "data", method="supcon", per_class=17, **how | {"out": tmp_path / "no"})


def test_methods_say_how_their_batches_are_made():
    assert method("simclr").sampler(settings("simclr")()) == Shuffled()
    for name, more in (("supcon", {}), ("triplet", {"pairs": "labels"}), ("drlim", {"pairs": "labels"})):
        own = settings(name)
        assert method(name).sampler(own(**more)) == Shuffled()
        assert method(name).sampler(own(per_class=4, **more)) == ClassBalanced(4)

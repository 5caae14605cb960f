"""Group views: the other view is of another image of the group, whatever the kind of data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import small_sounds
from interrupted import pretrain_until

import nearfar
from nearfar.core.errors import NearfarError
from nearfar.data import cache
from nearfar.data.groups import Partners, read_groups
from nearfar.data.loader import DataLoader
from nearfar.data.sources import open_source
from nearfar.images.view_settings import Views
from nearfar.training import checkpoint, inputs

PLAIN = Views(crop_min=1.0, flip=0.0, colour="change", jitter=0.0, grayscale=0.0, blur=0.0)
TINY = {"steps": 6, "batch_size": 16, "head": (16, 8), "precision": "float32", "workers": 1, "device": "cpu"}


def test_a_partner_is_another_of_the_group_and_each_as_often() -> None:
    groups = np.array([3, 0, 0, 3, 1, 0, 0])
    partners = Partners(groups)
    drawn = np.stack([partners.of(np.arange(7), key) for key in range(300)])
    assert (groups[drawn] == groups).all()
    assert (drawn[:, 4] == 4).all()  # alone in its group
    for row in (0, 1, 2, 3, 5, 6):
        assert set(drawn[:, row]) == {*np.flatnonzero(groups == groups[row])} - {row}
    assert np.bincount(drawn[:, 1], minlength=7)[[2, 5, 6]].min() > 70
    some = partners.of(np.array([5, 1]), 9)  # a row's draw does not depend on the others
    assert some.tolist() == [partners.of(np.array([row]), 9)[0] for row in (5, 1)]


def test_every_second_view_is_the_partners_and_ranks_see_the_same() -> None:
    images = np.repeat(np.arange(24, dtype=np.uint8)[:, None], 8 * 8 * 3, 1).reshape(24, 8, 8, 3) * 10
    dataset = cache.load(open_source(images), short_side=None, max_pixels=10**6, max_bad=0.1, threads=1)
    groups = np.arange(24) // 3
    how = {"size": 8, "batch_size": 12, "seed": 0, "groups": groups}
    feed = DataLoader(dataset, (PLAIN, PLAIN, PLAIN), **how)
    seen = set()
    for step in range(8):
        batch = feed.make(step)
        own, other, third = ((view.mean((1, 2, 3)) * 25.5).round().long() for view in batch.views)
        assert own.equal(batch.rows) and third.equal(batch.rows)
        assert (other != own).all() and (other // 3).equal(own // 3)
        seen |= {*zip(own.tolist(), other.tolist(), strict=True)}
    assert len(seen) > 30  # of 48: both partners of most
    parts = [DataLoader(dataset, (PLAIN, PLAIN), **how, rank=rank, world=2).make(3) for rank in range(2)]
    whole = DataLoader(dataset, (PLAIN, PLAIN), **how).make(3)
    for number in range(2):
        both = np.concatenate([part.views[number].numpy() for part in parts])
        assert np.array_equal(both, whole.views[number].numpy())


def listed(folder: Path, name: str = "g.csv") -> Path:
    """Write a list in which the pitch of a clip is its group."""
    rows = [f"{path.relative_to(folder)},{path.stem.split('-')[1]}" for path in sorted(folder.rglob("*.wav"))]
    (folder / name).write_text("path,speaker\n" + "\n".join(rows) + "\n")
    return folder / name


def test_sounds_of_a_group_come_together_and_the_run_resumes(tmp_path: Path) -> None:
    clips = small_sounds.folder(tmp_path / "clips", each=10)
    sound = {**TINY, "rate": 8000, "mels": 16, "groups": str(listed(clips))}
    nearfar.pretrain(clips, out=tmp_path / "whole", **sound)
    pretrain_until(4, clips, out=tmp_path / "again", **sound)
    run = nearfar.pretrain(clips, out=tmp_path / "again", **sound)
    same = [(tmp_path / name / "encoder.safetensors").read_bytes() for name in ("whole", "again")]
    assert same[0] == same[1]
    lines = run.health()
    assert all(0 <= line["task"]["trained"] <= 1 and line["task"]["images"] for line in lines)
    assert "task" in lines[0]  # the untrained network's, against which the rest is held
    plain = nearfar.pretrain(clips, out=tmp_path / "plain", **{**sound, "groups": None})
    assert (plain.path / "encoder.safetensors").read_bytes() != same[0]


def test_folders_are_groups_and_a_changed_list_is_another_run(tmp_path: Path, photos: Path) -> None:
    places = tmp_path / "places"
    for at, path in enumerate(sorted(photos.iterdir())):
        (places / str(at % 2)).mkdir(parents=True, exist_ok=True)
        (places / str(at % 2) / path.name).write_bytes(path.read_bytes())
    run = nearfar.pretrain(places, out=tmp_path / "a", **TINY, groups="folders")
    assert run.config["training"]["groups"] == "folders"
    names = sorted(str(path.relative_to(photos)) for path in photos.rglob("*") if path.is_file())
    for number, cut in enumerate((2, 3)):
        rows = "\n".join(f"{photos / name},{at // cut}" for at, name in enumerate(names))
        (tmp_path / "g.csv").write_text(f"path,group\n{rows}\n")
        if not number:
            pretrain_until(3, photos, out=tmp_path / "b", **TINY, groups=str(tmp_path / "g.csv"))
            assert checkpoint.read(tmp_path / "b" / checkpoint.LAST)
    with pytest.raises(NearfarError, match="another run"):
        nearfar.pretrain(photos, out=tmp_path / "b", **TINY, groups=str(tmp_path / "g.csv"))


@pytest.mark.parametrize("method", ["rotnet", "npid"])
def test_groups_are_refused_where_no_views_are_compared(method: str, photos: Path, tmp_path: Path) -> None:
    how = {key: value for key, value in TINY.items() if key != "head"}
    with pytest.raises(NearfarError, match=f"{method} does not"):
        nearfar.pretrain(photos, out=tmp_path / "r", method=method, **how, groups="folders")


def test_groups_of_one_are_refused(photos: Path, tmp_path: Path) -> None:
    names = sorted(path for path in photos.rglob("*") if path.is_file())
    (tmp_path / "g.csv").write_text("path,group\n" + "".join(f"{name},{name}\n" for name in names))
    assert len(set(read_groups(tmp_path / "g.csv").of.values())) == len(names)
    with pytest.raises(NearfarError, match="a group of its own"):
        nearfar.pretrain(photos, out=tmp_path / "r", **TINY, groups=str(tmp_path / "g.csv"))


def test_one_group_of_all_images_is_refused(photos: Path, tmp_path: Path) -> None:
    names = sorted(path for path in photos.rglob("*") if path.is_file())
    (tmp_path / "g.csv").write_text("path,group\n" + "".join(f"{name},a\n" for name in names))
    with pytest.raises(NearfarError, match="puts all images into one group"):
        nearfar.pretrain(photos, out=tmp_path / "r", **TINY, groups=str(tmp_path / "g.csv"))
    assert not (tmp_path / "r").exists()
    with pytest.raises(NearfarError, match="puts all images into one group"):  # no plan of what is refused
        nearfar.check(photos, **TINY, groups=str(tmp_path / "g.csv"))


def test_groups_are_refused_before_colours_are_measured(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "decide_colours", lambda *_: pytest.fail("colours were measured"))
    for groups, method, what in (
        ("none.csv", "simclr", "none.csv cannot be read"),
        ("folders", "rotnet", "--groups is for methods that bring views together"),
    ):
        with pytest.raises(NearfarError, match=what):
            nearfar.pretrain(
                photos, out=tmp_path / "run", groups=groups, method=method, steps=1, colour="auto"
            )


@pytest.mark.parametrize("word", ["burst", "Patient", "speaker", "group"])
def test_a_column_of_groups_is_known_by_its_name(word: str, tmp_path: Path) -> None:
    (tmp_path / "g.csv").write_text(f"path,label,{word}\na.png,cat,1\nb.png,dog,1\nc.png,cat,2\n")
    assert read_groups(tmp_path / "g.csv").of == {"a.png": "1", "b.png": "1", "c.png": "2"}
    (tmp_path / "g.csv").write_text("path,burst,patient\na.png,1,x\nb.png,2,x\n")
    assert set(read_groups(tmp_path / "g.csv").of.values()) == {"x"}  # what holds the other
    for other in ("other", "frame", "visit"):  # which number things within a group
        (tmp_path / "g.csv").write_text(f"path,label,{other}\na.png,cat,1\n")
        with pytest.raises(NearfarError, match="name them 'path' and 'group'"):
            read_groups(tmp_path / "g.csv")


def test_a_list_that_is_not_there_is_named_once(tmp_path: Path) -> None:
    with pytest.raises(NearfarError, match=r"none\.csv cannot be read as a list of groups: No such file"):
        read_groups(tmp_path / "none.csv")

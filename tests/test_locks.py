"""One process at a time, and disks that have no locks, as some network shares."""

from __future__ import annotations

import errno
import fcntl
from pathlib import Path

import numpy as np
import pytest

import nearfar
from nearfar.core import locks, progress


def test_a_lock_is_one_processs_and_is_let_go(tmp_path: Path) -> None:
    with locks.hold(tmp_path / "lock"), pytest.raises(locks.Busy), locks.hold(tmp_path / "lock"):
        pass
    with locks.hold(tmp_path / "lock"), locks.hold(tmp_path / "other", wait=True):
        pass


def test_a_folder_that_cannot_be_written_is_no_disk_without_locks(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError), locks.hold(tmp_path / "file" / "lock"):
        pass


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS])
@pytest.mark.filterwarnings("ignore:flock not supported")
def test_every_command_works_on_a_share_without_locks(
    number: int,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refused(fd: int, what: int) -> None:
        raise OSError(number, "no locks")

    monkeypatch.setattr(fcntl, "flock", refused)
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path / "cache"))
    progress.show(True)
    try:
        run = nearfar.pretrain(
            photos,
            out=tmp_path / "run",
            steps=1,
            batch_size=8,
            encoder="resnet10_w16",
            image_size=16,
            workers=1,
        )
        made = nearfar.embed(run, photos, out=tmp_path / "v.npz", workers=1)
    finally:
        progress.show(False)
    assert len(made.ids) == 96 and np.isfinite(made.vectors).all()
    # filelock itself knows what to do without the call; of the others we say it
    assert (number == errno.ENOSYS) != ("has no locks" in capsys.readouterr().err)


def test_a_command_that_comes_to_nothing_leaves_nothing(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(nearfar.NearfarError, match="nowhere"):
        nearfar.pretrain(photos, out=tmp_path / "runs" / "a", like=tmp_path / "nowhere")
    assert not list(tmp_path.iterdir())
    (tmp_path / "mine").mkdir()
    with pytest.raises(nearfar.NearfarError, match="nowhere"):
        nearfar.pretrain(photos, out=tmp_path / "mine", like=tmp_path / "nowhere")
    assert (tmp_path / "mine").is_dir()

"""Places to write: folders are made, devices are never replaced, and what cannot be written is said first."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from nearfar.core.atomic import atomic_write, check_place
from nearfar.core.device import device_named
from nearfar.core.errors import NearfarError, nearest


@pytest.fixture
def pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    return tmp_path / "pipe.csv"


def test_a_pipe_or_a_device_is_never_replaced(pipe):
    for write in (check_place, lambda path: atomic_write(path).__enter__()):
        with pytest.raises(NearfarError, match="is a device or a pipe, which no file replaces"):
            write(pipe)
    with pytest.raises(NearfarError, match="is a device or a pipe"):
        check_place(Path(os.devnull))
    assert stat.S_ISFIFO(os.lstat(pipe).st_mode) and not list(pipe.parent.glob("*.part"))


def test_a_folder_that_is_missing_is_made_where_the_user_named_it(tmp_path):
    path = tmp_path / "a/b/found.csv"
    check_place(path)
    assert not path.parent.exists()
    with atomic_write(path, folders=True) as file:
        file.write(b"x")
    assert path.read_bytes() == b"x"
    with pytest.raises(NearfarError, match="cannot be written"), atomic_write(tmp_path / "gone/x.csv"):
        pass


def test_places_that_cannot_be_written_are_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(NearfarError, match=r"file is no folder"):
        check_place(tmp_path / "file/sub/x.csv")
    with pytest.raises(NearfarError, match="is a folder; name a file"):
        check_place(tmp_path)


def test_a_device_or_a_name_that_is_none_is_a_sentence():
    with pytest.raises(NearfarError, match="--device is 'gpu'; .*cpu"):
        device_named("gpu")
    assert nearest("LABEL", ["label", "path"]) == "did you mean label?"

"""Where things are kept that can be made again: also without a home folder."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from nearfar.core.cache_root import cache_folder


def test_the_home_folder_is_used_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "nearfar"


@pytest.mark.parametrize("home", ["/nonexistent/home", "a file", "none"])
def test_without_a_home_folder_a_private_one_is_used(
    home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if home == "none":
        monkeypatch.delenv("HOME", raising=False)
        monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for a user without a name
    else:
        (tmp_path / "a file").touch()
        monkeypatch.setenv("HOME", str(tmp_path / home) if home == "a file" else home)
    made = cache_folder()
    assert made.parent == tmp_path and made.is_dir() and made.stat().st_mode & 0o077 == 0
    assert cache_folder() == made


def test_a_folder_that_another_user_could_lead_away_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("HOME", "/nonexistent/home")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"nearfar-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    made = cache_folder()
    assert made.is_dir() and made.resolve() != tmp_path / "elsewhere"

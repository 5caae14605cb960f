"""Paths that a run recorded are marked with this user's secret key."""

from __future__ import annotations

from pathlib import Path

import pytest

from nearfar.core.own_mark import is_own, mark_of


def test_a_mark_holds_for_its_paths_and_its_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path / "one"))
    made = mark_of(["/data/a", None])
    assert is_own(made, ["/data/a", None]) and mark_of(["/data/a", None]) == made
    for mark, paths in (
        (made, ["/data/b", None]),
        (made, ["/data/a"]),
        (made, ["/data/a", "None"]),
        ("", []),
        (None, ["/data/a", None]),
        (made[:-1], ["/data/a", None]),
    ):
        assert not is_own(mark, paths)
    key = tmp_path / "one" / "own-mark.key"
    assert key.stat().st_mode & 0o777 == 0o600 and [*(tmp_path / "one").iterdir()] == [key]
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path / "two"))
    assert not is_own(made, ["/data/a", None])


def test_without_a_place_for_the_key_nothing_is_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path / "file" / "below"))
    assert mark_of(["/data/a"]) == "" and not is_own("", ["/data/a"])

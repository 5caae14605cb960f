"""The commit that a run notes is git's own answer, however the clone keeps it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from nearfar.core.commit import commit

GIT = ["git", "-c", "user.name=n", "-c", "user.email=n@example.org", "-c", "commit.gpgsign=false"]


def git(where: Path, *words: str) -> str:
    return subprocess.run(
        [*GIT, *words], cwd=where, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_it_is_what_git_says(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    clone.mkdir()
    git(clone, "init", "-q", "-b", "main")
    assert commit(clone) is None  # nothing is committed yet
    git(clone, "commit", "-q", "--allow-empty", "-m", "one")
    head = git(clone, "rev-parse", "HEAD")
    assert commit(clone) == head
    git(clone, "pack-refs", "--all")
    assert commit(clone) == head
    git(clone, "worktree", "add", "-q", str(tmp_path / "beside"))
    git(tmp_path / "beside", "commit", "-q", "--allow-empty", "-m", "two")
    assert commit(tmp_path / "beside") == git(tmp_path / "beside", "rev-parse", "HEAD") != head
    git(clone, "checkout", "-q", "--detach")
    assert commit(clone) == head


def test_where_nothing_tells(tmp_path: Path) -> None:
    assert commit(tmp_path) is None
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_text("<script>")
    assert commit(tmp_path) is None

"""Finds the commit of nearfar, if it runs from a clone or was installed from one."""

from __future__ import annotations

import json
import re
from importlib import metadata
from pathlib import Path

_DIGEST = re.compile(r"[0-9a-f]{40,64}")


def commit(root: Path = Path(__file__).resolve().parent.parent) -> str | None:
    """Read the commit, without running git.

    Args:
        root: of the clone.

    Returns:
        Its digest; None where nothing tells, as in an installation from a package index.
    """
    found = _of_clone(root / ".git")
    if found is None:
        try:
            told = metadata.distribution("nearfar").read_text("direct_url.json")
            found = json.loads(told or "{}").get("vcs_info", {}).get("commit_id")
        except (metadata.PackageNotFoundError, ValueError, AttributeError):
            return None
    return found if isinstance(found, str) and _DIGEST.fullmatch(found) else None


def _of_clone(git: Path) -> str | None:
    """Follow HEAD to its commit."""
    try:
        if git.is_file():  # of a worktree: it says where the folder is
            git = (git.parent / git.read_text().partition("gitdir:")[2].strip()).resolve()
        head = (git / "HEAD").read_text().strip()
        name = head.removeprefix("ref: ")
        if name == head:
            return head
        shared = git / "commondir"
        folders = [git, (git / shared.read_text().strip()).resolve()] if shared.exists() else [git]
        for folder in folders:
            if (folder / name).is_file():
                return (folder / name).read_text().strip()
        packed = (folders[-1] / "packed-refs").read_text().splitlines()
        return next((line.split()[0] for line in packed if line.endswith(f" {name}")), None)
    except (OSError, UnicodeDecodeError):
        return None

"""Tells what a run is, without loading it or PyTorch."""

from __future__ import annotations

from pathlib import Path

from ..core.errors import NearfarError
from ..core.shapes import check_shape, loads
from . import run_shapes


def has_text(run: str | Path) -> bool:
    """Tell whether a run or a known encoder of images has an encoder of texts too, without loading it.

    Args:
        run: as `load` takes it; of a name on the hub nothing is known, so it may have one.

    Raises:
        NearfarError: what the run says of itself cannot be read.
    """
    folder = Path(run)
    path = folder / "encoder.json"
    if path.exists():
        try:
            said = loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise NearfarError(f"{path} cannot be read ({error}); is {folder} a run folder?") from error
        return isinstance(said, dict) and bool(said.get("text"))
    if not folder.is_dir():
        return str(run).startswith("hf:")
    from ..models import folders
    from ..text import two_towers

    return folders.is_model(folder) and two_towers.is_two_towers(folders.inner(folder))


def ranking_of(run: str | Path, digest: str) -> tuple[str, list[str]]:
    """Say which encoder was best in a run's last evaluation, by how much, and at what cost.

    Args:
        run: its folder.
        digest: of its encoder: an older encoder's evaluation does not count.

    Returns:
        The name of the test images and a sentence a classifier; none where there is no evaluation to read.
    """
    path = Path(run) / "evaluation.json"
    try:
        found = loads(path.read_bytes())
        check_shape(found, run_shapes.EVALUATION, f"{path}: ")
    except (OSError, ValueError, NearfarError):
        return "", []
    if not digest or found["encoder"].get("sha256") != digest:
        return "", []
    return str(found["data"]["test"] or ""), list(found.get("ranking", {}).get("sentences", ()))

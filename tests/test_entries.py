"""What is in a folder counts but for the files of a desktop, wherever a command asks whether one is empty."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nearfar
from nearfar.core.entries import entries
from nearfar.core.errors import NearfarError
from nearfar.demo import gallery
from nearfar.experiments import compare, learning_curve, sweep
from nearfar.finetuning import earlier_run as finetune
from nearfar.finetuning import prediction_files
from nearfar.queries import export
from nearfar.training import adopt, combine, earlier_run

LEFT = (".DS_Store", "Thumbs.db", "desktop.ini", ".directory")
ASKING: dict[str, Callable[[Path], Any]] = {
    "pretrain": lambda folder: earlier_run.find_earlier(folder, None),
    "finetune": lambda folder: finetune.find_earlier(folder, None),
    "predict": prediction_files.check_folder,
    "export a store": lambda folder: export._check_place(folder, "tensorboard"),
    "compare": compare._place,
    "curve": learning_curve._place,
    "sweep": sweep._place,
    "demo": lambda folder: gallery.there(folder, 0, 1, 1, 1),
    "adopt": lambda folder: adopt.adopt("no encoder", out=folder),
    "combine": lambda folder: combine.combine("no encoder", "none", out=folder),
}


@pytest.mark.parametrize("command", ASKING)
def test_a_folder_with_the_files_of_a_desktop_counts_as_empty(command: str, tmp_path: Path) -> None:
    for name in LEFT:
        (tmp_path / name).touch()
    assert entries(tmp_path) == []
    if command in ("adopt", "combine"):  # the folder is taken; the encoder is asked for next
        with pytest.raises(NearfarError, match="no encoder"):
            ASKING[command](tmp_path)
    else:
        ASKING[command](tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(NearfarError, match="'notes.txt'|not empty|already exists"):
        ASKING[command](tmp_path)


def test_a_run_and_a_store_go_into_such_a_folder(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 16, 16, 3), np.uint8)
    words = {"method": "simclr", "encoder": "resnet10_w16", "steps": 2, "batch_size": 8, "workers": 1}
    for name in ("run", "store"):
        (tmp_path / name).mkdir()
        (tmp_path / name / ".DS_Store").touch()
    with pytest.raises(NearfarError, match="nearfar pretrain DATA --out .*/run;"):
        nearfar.load(tmp_path / "run")
    run = nearfar.pretrain(pixels, out=tmp_path / "run", device="cpu", recipe="cpu", **words)
    nearfar.embed(run, pixels, store=tmp_path / "store")
    assert len(nearfar.open_store(tmp_path / "store")) == 24
    assert (tmp_path / "run" / ".DS_Store").exists()

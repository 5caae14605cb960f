"""The report on an encoder that was not trained here: a known one by its name, and one that was adopted."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from conftest import known_vit

import nearfar
from nearfar.core.errors import NearfarError
from nearfar.features.extract import fingerprint
from nearfar.reports.report import report
from nearfar.training.run import load


def words(path: Path) -> str:
    """The text of a page, without its tags."""
    source = re.sub(r"<style>.*?</style>", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", source)).replace("\xa0", " ")


def test_a_known_encoder_and_its_adopted_folder_have_a_page(labelled: Path, tmp_path: Path) -> None:
    vit, data = known_vit(tmp_path, 32), {"train": labelled / "train", "test": labelled / "test"}
    folder = tmp_path / "runs" / "<b>vit"
    adopted = nearfar.adopt(vit, out=folder)
    plain = report(vit, out=tmp_path / "named.html")
    assert plain.sections == ("card", "evaluation", "provenance") and "evaluation" in plain.missing
    told = words(tmp_path / "named.html")
    assert fingerprint(load(vit).encoder) in told and "SHA-256 of the weights" in told
    assert "licence of the weights unknown" in told and "test_vit" in told and "mean of the input" in told
    assert "has not been evaluated on labelled images yet" in told and "config.json" not in told

    found = nearfar.evaluate(folder, baselines=("pixels",), known="none", **data)
    report(folder, out=tmp_path / "adopted.html")
    source = (tmp_path / "adopted.html").read_text(encoding="utf-8")
    assert "<b>vit" not in source and "&lt;b&gt;vit" in source and "<script" not in source
    told = words(tmp_path / "adopted.html")
    ranked = found.ranking()
    assert ranked is not None and ranked.sentences()[0] in told
    assert "What is best, and what each encoder costs" in told
    assert f"weights from {vit}" in told and "It is one run" not in told
    again = report(vit, out=tmp_path / "now.html", **data)  # evaluated for the page
    assert "evaluation" not in again.missing and "of the test images get their right class" in words(
        again.path
    )
    assert adopted.folder == folder


def test_what_such_a_report_cannot_show_is_said(tmp_path: Path, photos: Path) -> None:
    vit = known_vit(tmp_path, 32)
    run = nearfar.pretrain(
        photos, out=tmp_path / "run", steps=2, batch_size=8, encoder="resnet10_w16", image_size=16
    )
    asked: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
        ((vit,), {"data": photos}, "--data is for runs that were trained here"),
        ((vit,), {"bank": "bank.safetensors"}, "--bank is for runs that were trained here"),
        ((run, vit), {}, "was not trained here, so a report shows it alone"),
    ]
    for runs, how, says in asked:
        with pytest.raises(NearfarError, match=says):
            report(*runs, out=tmp_path / "no.html", **how)
    assert not (tmp_path / "no.html").exists()

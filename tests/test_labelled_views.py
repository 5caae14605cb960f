"""Fine-tuning of an encoder itself on kinds other than images: what their labelled examples become."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_sounds import RATE
from small_sounds import folder as write_clips
from small_texts import TINY, sentences

import nearfar
from nearfar.core import progress
from nearfar.data.modalities import modality
from nearfar.images.view_settings import CROP_AND_FLIP


@pytest.fixture(scope="module", params=["text", "sound"])
def labelled(request, tmp_path_factory) -> tuple[nearfar.Run, Path, str]:
    """An encoder, and a folder of what it encodes by class."""
    root = tmp_path_factory.mktemp(request.param)
    if request.param == "sound":
        data, own = write_clips(root / "labelled", each=3), {"rate": RATE, "encoder": "mel_cnn_w32"}
    else:
        data, own = root / "labelled", {"encoder": "bag_w512"}
        for number, (text, name) in enumerate(zip(*sentences(48), strict=True)):
            (data / name).mkdir(parents=True, exist_ok=True)
            (data / name / f"{number}.txt").write_text(text)
    run = nearfar.pretrain(data, out=root / "run", **{**TINY, **own, "steps": 2, "health_checks": 1})
    return run, data, modality(request.param).noun


def test_an_encoder_of_sounds_or_texts_is_fine_tuned_itself(
    labelled: tuple[nearfar.Run, Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, data, noun = labelled
    progress.show(True)
    try:
        nearfar.finetune(run, train=data, out=tmp_path / "tuned", mode="full", epochs=2, device="cpu")
    finally:
        progress.show(False)
    said = capsys.readouterr().err
    assert f"{noun}/s" in said and "images" not in said
    assert nearfar.predict(tmp_path / "tuned", data, out=tmp_path / "p.csv", device="cpu")


def test_labelled_examples_keep_what_labels_may_be_of() -> None:
    text, sound = modality("text"), modality("sound")
    assert text.labelled_views(text.preprocess(32, "abc")) == text.views(deletion=0.0, tokenizer="abc")
    views = sound.labelled_views(sound.preprocess(rate=8000, mels=32, level="bands"))
    assert (views.rate, views.mels, views.level) == (8000, 32, "bands")
    assert views.shift == views.warp == views.tilt == 0.0 and views.keep < 1
    assert modality("images").labelled_views(None) is CROP_AND_FLIP

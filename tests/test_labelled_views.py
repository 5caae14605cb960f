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
    with pytest.raises(
        nearfar.NearfarError, match=f"--sheet shows images, and .* is for {noun}; leave it out"
    ):
        nearfar.predict(tmp_path / "tuned", data, sheet=tmp_path / "p.png")


def test_labelled_examples_keep_what_labels_may_be_of() -> None:
    text, sound = modality("text"), modality("sound")
    assert text.labelled_views(text.preprocess(32, "abc")) == text.views(deletion=0.0, tokenizer="abc")
    views = sound.labelled_views(sound.preprocess(rate=8000, mels=32, level="bands"))
    assert (views.rate, views.mels, views.level) == (8000, 32, "bands")
    assert views.shift == views.warp == views.tilt == 0.0 and views.keep < 1
    assert modality("images").labelled_views(None) is CROP_AND_FLIP


def test_test_texts_that_say_what_was_trained_on_are_counted(
    labelled: tuple[nearfar.Run, Path, str], tmp_path: Path
) -> None:
    run, data, noun = labelled
    if noun != "texts":
        pytest.skip("sounds are compared by their bytes alone")
    test = tmp_path / "test"
    for number, path in enumerate(sorted(data.rglob("*.txt"))):
        text = path.read_text()
        says = [text.upper() + "!", text + " So it is.", f"{number} of {number + 1}"][number % 3]
        (test / path.parent.name).mkdir(parents=True, exist_ok=True)
        (test / path.parent.name / path.name).write_text(says)
    found = nearfar.evaluate(run, train=data, test=test, device="cpu")
    assert (found.images["shared"], found.images["near_copies"]) == (0, 32)
    assert found.leaks["near_copies"].images == 32
    made = nearfar.finetune(run, train=data, test=test, out=tmp_path / "tuned", device="cpu")
    assert "16 of 48 test texts are trained on too, word for word" in str(made)
    assert "16 of 48 test texts are nearly the same as one trained on" in str(made)

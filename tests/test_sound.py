"""Sound as a kind of data: files are read, set aside by name, trained on, embedded and searched."""

from __future__ import annotations

import io
import wave
from pathlib import Path

import numpy as np
import pytest
import small_sounds
import torch

import nearfar
from nearfar.analysis.duplicates import duplicate_groups, duplicate_pairs
from nearfar.analysis.sound_copies import Clips
from nearfar.cli.commands import pretrain_parser
from nearfar.cli.main import main
from nearfar.core.errors import BadImage, NearfarError
from nearfar.data import modalities as kinds
from nearfar.data.endings import endings
from nearfar.data.open import open_data, recognise
from nearfar.sound import logmel, read
from nearfar.sound.view_settings import SoundPreprocess
from nearfar.stores import open_store

LIMIT = 10**8
TINY = {
    "steps": 6,
    "batch_size": 16,
    "head": (16, 8),
    "precision": "float32",
    "workers": 1,
    "device": "cpu",
    "rate": 8000,
    "mels": 16,
}
SOUND = kinds.modality("sound")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_sounds.folder(tmp_path_factory.mktemp("data") / "clips")


@pytest.fixture(scope="module")
def run(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "clips"
    nearfar.pretrain(clips, out=folder, **TINY)
    return folder


def pcm(sound: np.ndarray, tmp_path: Path, **how: int) -> bytes:
    small_sounds.write(tmp_path / "a.wav", sound, **how)
    return (tmp_path / "a.wav").read_bytes()


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_every_width_of_pcm_is_read(width: int, tmp_path: Path) -> None:
    tone = 0.5 * np.sin(np.arange(800) / 5)
    samples, rate = read.decode(pcm(tone, tmp_path, width=width), LIMIT)
    assert rate == 8000 and samples.dtype == np.float32
    assert np.abs(samples - tone).max() < 1.01 * 2.0 ** (1 - 8 * min(width, 3))


def test_channels_are_mixed_and_rates_brought_together(tmp_path: Path) -> None:
    time = np.arange(22050) / 22050
    left, right = 0.5 * np.sin(2 * np.pi * 440 * time), 0.1 * np.sin(2 * np.pi * 440 * time)
    samples, rate = read.decode(pcm(np.stack([left, right], axis=1), tmp_path, rate=22050), LIMIT)
    assert np.abs(samples - (left + right) / 2).max() < 1e-4
    made = read.resample(samples, rate, 8000)
    wanted = 0.3 * np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)
    assert len(made) == 8000 and np.abs(made - wanted)[100:-100].max() < 2e-3


def test_channels_that_cancel_each_other_are_no_silence(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    tone = 0.5 * np.sin(np.arange(8000) / 5)
    crossed = np.stack([tone, -tone], axis=1)
    soundfile.write(tmp_path / "a.flac", crossed, 8000)
    for data in (pcm(crossed, tmp_path, rate=8000), (tmp_path / "a.flac").read_bytes()):
        with pytest.raises(BadImage, match="channels cancel each other"):
            read.decode(data, LIMIT)
    silent, _ = read.decode(pcm(0 * crossed, tmp_path, rate=8000), LIMIT)
    assert len(silent) == 8000 and not silent.any()


def test_a_file_that_lacks_a_sample_says_how_many_are_there(tmp_path: Path) -> None:
    data = pcm(0.5 * np.sin(np.arange(8000) / 5), tmp_path, rate=8000)
    with pytest.raises(BadImage, match="cut short: 7,999 of 8,000 samples are there"):
        read.decode(data[:-1], LIMIT)


def test_flac_and_ogg_are_read_by_what_they_hold(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    tone = 0.5 * np.sin(np.arange(8000) / 5)
    soundfile.write(tmp_path / "a.flac", tone, 8000)
    (tmp_path / "b.wav").write_bytes((tmp_path / "a.flac").read_bytes())  # a wrong ending does no harm
    soundfile.write(tmp_path / "c.ogg", tone, 8000)
    soundfile.write(tmp_path / "d.wav", tone, 8000, subtype="FLOAT")
    for name, error in (("a.flac", 1e-4), ("b.wav", 1e-4), ("c.ogg", 0.2), ("d.wav", 1e-6)):
        samples, rate = read.decode((tmp_path / name).read_bytes(), LIMIT)
        assert rate == 8000 and np.abs(samples - tone).max() < error, name
    soundfile.write(tmp_path / "e.mp3", tone, 8000)
    mp3 = (tmp_path / "e.mp3").read_bytes()
    assert len(read.decode(b"ID3\3\0\0\0\0\0\5title" + mp3, LIMIT)[0]) == 8000
    with pytest.raises(BadImage, match=r"cut short: 0\.\d+ of 1\.00 s are there"):
        read.decode(b"ID3\3\0\0\0\0\0\5title" + mp3[: len(mp3) // 2], LIMIT)
    cut = (tmp_path / "a.flac").read_bytes()[:3000]
    with pytest.raises(BadImage, match="cut short|broken"):
        read.decode(cut, LIMIT)


def scales(tone: np.ndarray) -> dict[str, bytes]:
    """Write a sound as programs do that mistake its scale: whole numbers as floats, 16 bits in 32."""
    soundfile = pytest.importorskip("soundfile")
    both = np.stack([tone, tone], axis=1)
    written = {
        "16 bits as floats": (tone * 32767, "WAV", "FLOAT"),
        "24 bits as floats": (both.astype("f8") * (2**23 - 1), "WAV", "DOUBLE"),
        "32 bits as floats": (tone.astype("f8") * (2**31 - 1), "WAV", "DOUBLE"),
        "16 bits in 32": (np.rint(both * 32767).astype("<i4"), "WAV", "PCM_32"),
        "16 bits in 32, AIFF": (np.rint(tone * 32767).astype("<i4"), "AIFF", "PCM_32"),
    }
    made = {}
    for name, (values, form, kind) in written.items():
        file = io.BytesIO()
        soundfile.write(file, values, 8000, format=form, subtype=kind)
        made[name] = file.getvalue()
    return made


def test_a_sound_on_the_scale_of_other_numbers_keeps_its_levels() -> None:
    tone = small_sounds.vowel("ah", 120, 0.5)
    true = logmel.log_mels(tone, 8000, 16).astype(int)
    for name, data in scales(tone).items():
        samples, _ = read.decode(data, LIMIT)
        frames = logmel.log_mels(samples, 8000, 16)
        assert np.abs(frames.astype(int) - true).max() <= 3, name


def test_loud_and_quiet_recordings_keep_their_level() -> None:
    soundfile = pytest.importorskip("soundfile")
    tone = small_sounds.vowel("ah", 120, 0.5)
    for factor, kind in ((12.0, "FLOAT"), (1e-4, "FLOAT"), (1e-3, "PCM_32"), (0.0, "PCM_32")):
        file = io.BytesIO()
        soundfile.write(file, tone * factor, 8000, format="WAV", subtype=kind)
        samples, _ = read.decode(file.getvalue(), LIMIT)
        assert np.allclose(samples, tone * factor, atol=1e-7), (factor, kind)
    file = io.BytesIO()
    soundfile.write(file, tone * 1e30, 8000, format="WAV", subtype="FLOAT")
    with pytest.raises(BadImage, match="samples of up to .*, where sound has at most 1"):
        read.decode(file.getvalue(), LIMIT)


def test_a_flac_that_was_streamed_counts_no_samples_and_is_read() -> None:
    soundfile = pytest.importorskip("soundfile")
    tone, file = small_sounds.vowel("ah", 120, 0.5), io.BytesIO()
    soundfile.write(file, tone, 8000, format="FLAC")
    data = bytearray(file.getvalue())
    data[21] &= 0xF0  # the number of samples has 36 bits; 0 means that the writer did not know it
    data[22:26] = bytes(4)
    samples, rate = read.decode(bytes(data), LIMIT)
    assert rate == 8000 and np.allclose(samples, tone, atol=1e-4)
    data[21] |= 0x0F
    data[22:26] = b"\xff" * 4
    with pytest.raises(BadImage, match="over the limit of 10 minutes: 8,589,935 s"):
        read.decode(bytes(data), LIMIT)


def test_a_missing_soundfile_is_said_with_what_to_type(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(read, "has_soundfile", lambda: False)
    (tmp_path / "a.flac").write_bytes(b"fLaC")
    with pytest.raises(NearfarError, match=r"'a.flac'.*: pip install 'nearfar\[sound\]'"):
        SOUND.open(tmp_path)
    with pytest.raises(BadImage, match=r"pip install 'nearfar\[sound\]'"):
        read.decode(b"fLaC", LIMIT)


def long_header(seconds: int) -> bytes:
    """A WAV file that says it lasts many hours."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1), out.setsampwidth(1), out.setframerate(8000)
        out.writeframes(bytes(8000))
    raw = bytearray(file.getvalue())
    raw[40:44] = (8000 * seconds).to_bytes(4, "little")
    return bytes(raw)


def test_hostile_files_are_set_aside_and_named(tmp_path: Path) -> None:
    root = small_sounds.folder(tmp_path / "clips", each=8)
    tone = small_sounds.vowel("ah", 120, 0.5)
    cases = {
        "empty.wav": b"",
        "text.wav": b"this is no sound at all\n" * 99,
        "nul.wav": bytes(5000),
        "short.wav": pcm(tone, tmp_path)[:2000],
        "one.wav": pcm(tone[:1], tmp_path),
        "none.wav": pcm(tone[:0], tmp_path),
        "hours.wav": pcm(np.zeros(1001 * 601), tmp_path, rate=1001, width=1),
    }
    for name, content in cases.items():
        (root / "ah" / name).write_bytes(content)
    small_sounds.write(root / "ah" / "fast.wav", np.repeat(tone, 6), rate=48_000)
    small_sounds.write(root / "ah" / "stereo.wav", np.stack([tone, tone], axis=1))
    (root / "ah" / "folder.wav").mkdir()
    made = nearfar.pretrain(root, out=tmp_path / "run", max_bad=0.5, **{**TINY, "steps": 2})
    lines = (made.path / "rejected.csv").read_text().splitlines()[1:]
    said = dict(line.split(",", 1) for line in lines)
    assert set(said) == {f"ah/{name}" for name in (*cases, "folder.wav")}
    assert said["ah/empty.wav"] == "empty file" and "10 minutes" in said["ah/hours.wav"]
    assert "too short: 1 sample," in said["ah/one.wav"] and "no samples" in said["ah/none.wav"]
    assert "cut short: 0.1" in said["ah/short.wav"] and said["ah/text.wav"].startswith("broken")
    assert not any(reason.endswith(".") for reason in said.values())  # a sentence follows
    found = nearfar.check(root, max_bad=0.5, **{**TINY, "steps": 2}).inspection
    assert len(found.rejected) == 8 and found.usable == 66


def test_a_header_that_lies_costs_no_memory() -> None:
    with pytest.raises(BadImage, match="cut short"):
        read.decode(long_header(300), LIMIT)
    with pytest.raises(BadImage, match="over the limit of 10 samples"):
        read.decode(long_header(1), 10)


@pytest.mark.parametrize("frames", [5, 16, 96, 333])
def test_the_encoder_takes_any_length(frames: int) -> None:
    encoder = SOUND.encoder("mel_cnn_w32", size=40).eval()
    assert encoder(torch.randn(2, 1, 24, frames)).shape == (2, encoder.dim)
    with pytest.raises(NearfarError, match="no encoder 'resnet8' of sound"):
        SOUND.encoder("resnet8", size=40)


def test_the_kind_is_found_from_the_files(clips: Path, photos: Path, tmp_path: Path) -> None:
    assert recognise(clips) == recognise(str(clips)) == "sound"
    assert recognise(photos) == recognise("cifar10") == "images"
    assert recognise([str(next(clips.rglob("*.wav")))]) == "sound"
    listed = tmp_path / "clips.csv"
    listed.write_text("path,label\nx/a.wav,ah\nx/b.wav,ee\n")
    assert recognise(listed) == "sound" and endings(listed) == {"wav": 2}
    listed.write_text("path,label\nx/a.png,ah\nx/b.jpg,ee\n")
    assert recognise(listed) == "images"


def test_images_a_level_below_a_note_in_every_class_are_images(tmp_path: Path) -> None:
    for number in range(400):  # as Tiny ImageNet lies
        (tmp_path / f"n{number:04}" / "images").mkdir(parents=True)
        (tmp_path / f"n{number:04}" / "boxes.txt").touch()
        (tmp_path / f"n{number:04}" / "images" / "0.JPEG").touch()
    assert recognise(tmp_path) == "images" and set(endings(tmp_path)) == {"txt", "jpeg"}


def test_a_folder_of_several_kinds_is_asked_about(clips: Path, photos: Path, tmp_path: Path, capsys) -> None:
    mixed = tmp_path / "mixed"
    (mixed / "a").mkdir(parents=True)
    for path in [*sorted(clips.rglob("*.wav"))[:20], *sorted(photos.iterdir())[:30]]:
        (mixed / "a" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(NearfarError, match=r"images \(30 files\) and sound \(20 files\).*--modality sound"):
        nearfar.pretrain(mixed, out=tmp_path / "run", **TINY)
    for kind, count, own, other in (("sound", 20, "--mels", "--hue"), ("images", 30, "--hue", "--mels")):
        words = [str(mixed), "--modality", kind]
        assert len(open_data(mixed, expected=kind)) == count
        flags = pretrain_parser(words).flags
        assert own in flags and other not in flags
    assert main(["pretrain", str(mixed), "--modality", "sounds"]) == 2
    assert "no kind of data 'sounds'; did you mean sound?" in capsys.readouterr().err


def test_a_run_says_its_kind_and_resumes(clips: Path, run: Path, tmp_path: Path) -> None:
    found = nearfar.load(run)
    assert found.config["training"]["modality"] == "sound"
    assert found.preprocess == SoundPreprocess(size=found.preprocess.size, rate=8000, mels=16)
    assert 20 < found.preprocess.size < 38  # frames of 10 ms, without quiet ends
    assert nearfar.pretrain(clips, out=run, **TINY).path == run  # finished: there is nothing to do
    again = nearfar.pretrain(clips, out=tmp_path / "again", modality="sound", **{**TINY, "workers": 2})
    assert (again.path / "encoder.safetensors").read_bytes() == (run / "encoder.safetensors").read_bytes()


def test_vectors_of_files_go_into_a_store_and_are_searched(clips: Path, run: Path, tmp_path: Path) -> None:
    made = nearfar.embed(run, clips, out=tmp_path / "clips.npz")
    assert made.vectors.shape == (40, 448) and np.isfinite(made.vectors).all()
    one = next(clips.rglob("ee-100-0.wav"))
    at = made.ids.index("ee/ee-100-0.wav")
    assert np.allclose(nearfar.load(run).encode(one), made.vectors[at], atol=1e-5)
    store = tmp_path / "clips.nf"
    nearfar.embed(run, clips, store=store)
    held = open_store(store)
    assert held.info.modality == "sound"
    assert set(held.rows(["milliseconds"]).column("milliseconds").to_pylist()) == {300, 350, 400, 450}
    found = nearfar.search(store, id="ee/ee-100-0.wav", limit=3)
    assert len(found.ids) == 3 and "ee/ee-100-0.wav" not in found.ids


def test_copies_of_clips_are_found_by_their_samples() -> None:
    draw = np.random.default_rng(0)
    clips = []
    for pitch in (110, 113, 150, 201):
        for _ in range(3):  # one vowel of one speaker, said thrice: the phases differ
            time = np.arange(4000) / 8000
            waves = [np.sin(2 * np.pi * pitch * k * time + draw.uniform(0, 6.3)) / k for k in range(1, 12)]
            clips.append(np.sum(waves, axis=0) * np.hanning(4000) * 0.2)
    copy = {
        "louder": 3 * clips[0], "upside down": -clips[0], "later": np.r_[np.zeros(700), clips[0]],
        "cut": clips[0][200:], "noisy": clips[0] + 0.01 * draw.standard_normal(4000),
    }  # fmt: skip
    held = [np.asarray(x, np.float32) for x in (*clips, *copy.values(), np.zeros(50))]
    x = draw.standard_normal((len(held), 4)).astype(np.float32)
    x[12:17] = x[0] + 0.01 * draw.standard_normal((5, 4)).astype(np.float32)
    found = duplicate_groups(Clips(x, [""] * len(held), lambda row: held[row]), [0] * len(held), 0.95)
    assert found.rows.tolist()[0] == 0 and set(found.rows.tolist()) == {0, 12, 13, 14, 15, 16}
    here = Clips(x[12:], [""] * 6, lambda row: held[12 + row])
    there = Clips(x[:12], [""] * 12, lambda row: held[row])
    pairs = duplicate_pairs(here, there, 0.95)
    assert set(pairs.b.tolist()) == {0} and set(pairs.a.tolist()) == {0, 1, 2, 3, 4}
    none = Clips(x, [""] * len(held), lambda row: None)
    assert len(duplicate_pairs(none)) == 0

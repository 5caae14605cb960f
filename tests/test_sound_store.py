"""What a store of sounds is used for, from the command line and on the page."""

from __future__ import annotations

import io
import wave
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("lancedb", reason="no LanceDB here: pip install 'nearfar[store]'")

import small_sounds
from PIL import Image

import nearfar
from nearfar.core.errors import NearfarError
from nearfar.queries.compared import compared
from nearfar.queries.duplicates import list_groups
from nearfar.stores import VectorStore, open_store

HOW = {"steps": 30, "batch_size": 32, "precision": "float32", "workers": 1, "device": "cpu", "rate": 8000}


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nearfar.Run, VectorStore]:
    """A folder of words in which one is odd and one is twice; a run; a store."""
    root = tmp_path_factory.mktemp("sounds")
    clips = small_sounds.folder(root / "clips", each=4)
    noise = np.random.default_rng(0).standard_normal(3200).astype(np.float32)
    small_sounds.write(clips / "ee" / "noise.wav", 0.2 * noise)
    (clips / "ee" / "twice.wav").write_bytes((clips / "ee" / "ee-130-1.wav").read_bytes())
    run = nearfar.pretrain(clips, out=root / "run", health_checks=0, **HOW)
    nearfar.embed(run, clips, store=root / "clips.nf", labels=True)
    return root, run, open_store(root / "clips.nf")


def test_the_uses_of_a_store_work_on_sound(there: tuple[Path, nearfar.Run, VectorStore]) -> None:
    root, _, store = there
    odd = nearfar.anomalies(store, limit=3)
    assert "ee/noise.wav" in odd.ids
    copies = nearfar.duplicates(store)
    assert {"ee/twice.wav", "ee/ee-130-1.wav"} <= set(copies.ids)
    assert copies.columns["same"][copies.ids.index("ee/twice.wav")]
    said = "\n".join(copies.lines)
    assert (
        "clips are copies, 1 of them byte for byte" in said
        and "longest clip" in said
        and "pixels" not in said
    )
    assert "not at hand" not in said
    listed = list_groups(store, compared(store, files=False))  # as the page does
    assert set(listed.ids) == {"ee/twice.wav", "ee/ee-130-1.wav"} and "not opened here" in listed.lines[1]
    clip = root / "clips" / "ah" / "ah-170-2.wav"
    near = nearfar.search(store, image=clip, limit=4, out=root / "near.png")
    assert (root / "near.png").stat().st_size
    assert near.ids[0] == "ah/ah-170-2.wav"
    assert sum(name.startswith("ah/") for name in near.ids) >= 3
    named = nearfar.classes(store, examples=root / "clips")
    assert len(named.ids) > 0


def clips_at(root: Path, *names: str) -> Path:
    """Write a folder with a vowel at each of these places."""
    for name in names:
        small_sounds.write(root / name, small_sounds.vowel("ah", 130))
    return root


def test_nothing_said_of_clips_calls_them_images(
    there: tuple[Path, nearfar.Run, VectorStore], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root, run, store = there
    said = [
        nearfar.image_map(store, where="id < 'ee'"),
        nearfar.label_errors(store),
        nearfar.classes(store, examples=root / "clips"),
        nearfar.curate(store, limit=5),
        nearfar.clusters(store, n_clusters=2),
        nearfar.export(store, to="csv", out=tmp_path / "table.csv"),
        nearfar.embed(run, root / "clips", out=tmp_path / "parts", part="1/1"),
        nearfar.embed(run, join=tmp_path / "parts", out=tmp_path / "joined.npz"),
        nearfar.store(store.address),
        nearfar.anomalies(store, normal="label != 'ee'", anomalous="label = 'ee'", fpr=0.4, k=1, limit=2),
    ]
    for wrong in (
        lambda: nearfar.search(store, id="none.wav"),
        lambda: nearfar.curate(store, limit=1000),
        lambda: nearfar.anomalies(store, normal="id < 'ah/ah-130'"),
        lambda: nearfar.anomalies(store, normal="label = 'ah'", k=1, fpr=0.01),
        lambda: nearfar.anomalies(store, anomalous="label != 'none'"),
        lambda: nearfar.search(store, text="ah"),
        lambda: nearfar.search(store),
        lambda: nearfar.embed(
            run, clips_at(tmp_path / "loose", "a.wav", "ah/b.wav"), store=tmp_path / "loose.nf", labels=True
        ),
        lambda: nearfar.evaluate(run, train=root / "clips", test=clips_at(tmp_path / "other", "oh/a.wav")),
        lambda: nearfar.evaluate(
            run, train=clips_at(tmp_path / "one", "oh/a.wav", "oh/b.wav"), test=tmp_path / "other"
        ),
        lambda: nearfar.label_errors(store, where="id = 'ee/noise.wav'"),
        lambda: store.vectors(ids=["none.wav"]),
    ):
        with pytest.raises(NearfarError) as error:
            wrong()
        said.append(error.value)
    for words in (*said, capfd.readouterr().err):
        assert "image" not in str(words) and "photo" not in str(words), words


def test_a_vowel_is_found_whatever_its_pitch(there: tuple[Path, nearfar.Run, VectorStore]) -> None:
    root, run, _ = there
    test = small_sounds.folder(root / "test", each=2, start=77)
    parts = ["retrieval", "clusters", "calibration"]
    found = nearfar.evaluate(run, train=root / "clips", test=test, parts=parts)
    assert set(found.knn) == {"encoder", "untrained", "mfcc", "mfcc_course", "chance"}
    assert found.knn["encoder"].accuracy > 0.9
    assert found.scores["svm"].keys() == found.knn.keys() and "\nSVM" in found.table()
    assert found.table().count("MFCC course") == 4 and "mfcc" not in found.table()


def test_the_page_plays_a_clip_and_shows_its_spectrogram(
    there: tuple[Path, nearfar.Run, VectorStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fastapi", reason="no FastAPI here: pip install 'nearfar[explore]'")
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path / "cache"))
    from test_explore_labels import asked, served

    root, _, store = there
    ids = store.ids()
    at = ids.index("ah/ah-100-2.wav")
    with served(store) as client:
        facts = asked(client, "/api/store")
        key = facts["key"]
        assert facts["modality"] == "sound" and facts["one"] == "clip"
        answer = client.get(f"/api/clip/{at}?key={key}")
        assert answer.headers["content-type"] == "audio/wav"
        assert "media-src blob:" in answer.headers["content-security-policy"]
        with wave.open(io.BytesIO(answer.content)) as file:
            assert (file.getframerate(), file.getnchannels()) == (8000, 1)
            heard = np.frombuffer(file.readframes(10**6), "<i2")
        with wave.open(str(root / "clips" / "ah" / "ah-100-2.wav")) as file:
            assert np.abs(heard - np.frombuffer(file.readframes(10**6), "<i2").astype(int)).max() <= 1
        picture = Image.open(io.BytesIO(client.get(f"/api/photo/{at}?key={key}").content))
        assert picture.format == "JPEG" and picture.size == (1024, 768)
        thumbnail = Image.open(io.BytesIO(store.thumbnails([ids[at]])[0]))
        assert np.asarray(thumbnail).std() > 20
        body = (root / "clips" / "ah" / "ah-100-2.wav").read_bytes()
        assert client.post("/api/search/file", content=body).status_code == 200
        refused = client.post("/api/search/file", content=b"no sound").json()["error"]
        assert "cannot be used as sound" in refused
        (tmp_path / "secret.wav").write_bytes(body[:-2] + b"\7\7")
        for path in (str(tmp_path / "secret.wav"), "/etc/passwd", "/dev/zero", str(tmp_path), "x.wav"):
            open_store(store.address).update("path", {ids[at]: path})
            answer = client.get(f"/api/clip/{at}?key={key}")
            assert answer.status_code == 400 and "root:" not in answer.text, path

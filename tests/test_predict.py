"""The verb predict: formats, going on after a stop, unusable images, stores, sheets, "none of these"."""

import json
import shutil
from collections import Counter

import numpy as np
import pyarrow.parquet as parquet
import pytest
from PIL import Image
from small_tuned import labelled, linear, rows, start  # noqa: F401

import nearfar
from nearfar.core.errors import NearfarError
from nearfar.features import chunked
from nearfar.finetuning import calibrate
from nearfar.finetuning import predict as predicting
from nearfar.finetuning.classify import Predicting
from nearfar.finetuning.tuned import open_tuned


def test_predictions_in_every_format_are_the_same(linear, labelled, tmp_path) -> None:
    found = nearfar.predict(linear.path, labelled / "test", out=tmp_path / "p.csv", all_classes=True)
    table = rows(tmp_path / "p.csv")
    right = [row["path"].split("/")[0] == row["class"] for row in table]
    assert (
        found.images == len(table) == 60
        and np.mean(right) == linear.figures["test"]["fine-tuned"]["accuracy"]
    )
    shares = np.array([[float(row[f"p_{name}"]) for name in linear.classes] for row in table])
    assert np.allclose(shares.sum(1), 1, atol=1e-3)
    assert [row["probability"] for row in table] == [str(value) for value in shares.max(1)]
    nearfar.predict(linear.path, labelled / "test", out=tmp_path / "p.json")
    nearfar.predict(linear.path, labelled / "test", out=tmp_path / "p.parquet")
    plain = [{"path": r["path"], "class": r["class"], "probability": float(r["probability"])} for r in table]
    assert json.loads((tmp_path / "p.json").read_text()) == plain
    assert parquet.read_table(tmp_path / "p.parquet").to_pylist() == plain
    assert sorted(item.name for item in tmp_path.iterdir()) == ["p.csv", "p.json", "p.parquet"]


def test_a_prediction_that_was_cut_short_goes_on(linear, labelled, tmp_path, monkeypatch) -> None:
    from nearfar.features import chunked
    from nearfar.finetuning import predict as verb

    for module in (chunked, verb):
        monkeypatch.setattr(module, "CHUNK_IMAGES", 16)
    whole = nearfar.predict(linear.path, labelled / "test", out=tmp_path / "whole.csv")
    put, done = verb.Parts.put, []

    def dies(self, low, part) -> None:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(low)
        put(self, low, part)

    monkeypatch.setattr(verb.Parts, "put", dies)
    with pytest.raises(KeyboardInterrupt):
        nearfar.predict(linear.path, labelled / "test", out=tmp_path / "cut.csv")
    assert not (tmp_path / "cut.csv").exists()
    monkeypatch.setattr(verb.Parts, "put", put)
    again = nearfar.predict(linear.path, labelled / "test", out=tmp_path / "cut.csv")
    assert (again.fresh, whole.fresh, again.counts) == (28, 60, whole.counts)
    assert (tmp_path / "cut.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert not list(tmp_path.glob("*.parts"))


def test_a_list_of_unusable_images_goes_when_all_can_be_used(linear, labelled, tmp_path) -> None:
    shutil.copytree(labelled / "test", tmp_path / "photos")
    bad = tmp_path / "photos" / "bad.png"
    for where, do in (("p.csv", nearfar.predict), ("v.npz", nearfar.embed)):
        bad.write_bytes(b"no image")
        do(linear.path, tmp_path / "photos", out=tmp_path / where)
        assert "bad.png" in (tmp_path / f"{where}.rejected.csv").read_text()
        bad.unlink()
        do(linear.path, tmp_path / "photos", out=tmp_path / where)
        assert not (tmp_path / f"{where}.rejected.csv").exists()


def test_a_sheet_of_no_image_is_refused(linear, tmp_path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "bad.png").write_bytes(b"no image")
    with pytest.raises(NearfarError, match="of 1 image of .* none can be used"):
        nearfar.predict(linear.path, tmp_path / "photos", sheet=tmp_path / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()


def test_a_store_gets_columns_and_a_sheet_is_drawn(linear, labelled, tmp_path) -> None:
    store = tmp_path / "photos.nf"
    nearfar.embed(linear.path, labelled / "test", store=store)
    found = nearfar.predict(linear.path, store=store, sheet=tmp_path / "sheet.png")
    table = nearfar.open_store(store).rows(["id", "predicted", "probability"]).to_pylist()
    assert found.images == 60 and {row["predicted"] for row in table} <= {*linear.classes}
    assert all(0.25 <= row["probability"] <= 1 for row in table)
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.size == (8 + 10 * 136, 8 + 6 * 166)
    kept = nearfar.open_store(store)
    kept.drop(["probability"])
    kept.update("probability", {table[0]["id"]: "high"})
    with pytest.raises(NearfarError, match="holds a text .* a number is to be written; drop this one first"):
        nearfar.predict(linear.path, store=store)
    shutil.rmtree(tmp_path / "photos.nf")
    with pytest.raises(NearfarError, match="no images are named"):
        nearfar.predict(linear.path, out=tmp_path / "x.csv")


def test_a_store_that_was_made_anew_gets_the_columns_of_finished_chunks_too(
    linear, labelled, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(chunked, "CHUNK_IMAGES", 20)
    monkeypatch.setattr(predicting, "CHUNK_IMAGES", 20)
    store, real, kept = tmp_path / "photos.nf", predicting.Parts.put, []

    def put(self, low, part):
        if len(kept) == 2:
            raise KeyboardInterrupt
        kept.append(low)
        real(self, low, part)

    monkeypatch.setattr(predicting.Parts, "put", put)
    nearfar.embed(linear.path, labelled / "test", store=store)
    with pytest.raises(KeyboardInterrupt):
        nearfar.predict(linear.path, store=store)
    shutil.rmtree(store)
    nearfar.embed(linear.path, labelled / "test", store=store)
    monkeypatch.setattr(predicting.Parts, "put", real)
    found = nearfar.predict(linear.path, store=store)
    said = nearfar.open_store(store).rows(["predicted"]).column("predicted").to_pylist()
    assert found.fresh == 20 and None not in said and found.counts == Counter(said)


def test_none_of_these_keeps_its_promise(linear, labelled, tmp_path) -> None:
    with pytest.raises(NearfarError, match="needs 99 held-out images, and the run had 32"):
        nearfar.predict(linear.path, labelled / "test", out=tmp_path / "p.csv", reject=0.01)
    found = nearfar.predict(linear.path, labelled / "test", out=tmp_path / "p.csv", reject=0.3)
    # Of 32 held-out images, choices were made on the same ones.
    assert 0 < found.counts["none of these"] < 60
    assert "about 30 % of images like the training ones" in found.notes[0] and "no bound" in found.notes[0]
    task = open_tuned(linear.path).task
    task.apart = True
    assert "at most 30 % of images like the held-out ones" in task.prepare(Predicting(reject=0.3))[0]
    task.noun = "clips"
    assert "image" not in task.prepare(Predicting(reject=0.3))[0]
    with pytest.raises(NearfarError, match="needs 99 held-out clips"):
        task.prepare(Predicting(reject=0.01))
    with pytest.raises(NearfarError, match="held-out clips, and the run had"):
        task.prepare(Predicting(reject=1e-320))
    drawn = nearfar.predict(linear.path, labelled / "test", sheet=tmp_path / "sheet.png")
    assert str(drawn).startswith(f"{tmp_path / 'sheet.png'}: 60 images")
    draw = np.random.default_rng(0)
    turned = []
    for _ in range(2000):
        known, new = draw.random(49), draw.random(200)
        turned.append((new < calibrate.least_probability(known, 0.1)).mean())
    assert 0.095 < np.mean(turned) < 0.105
    assert calibrate.least_probability(draw.random(8), 0.1) is None

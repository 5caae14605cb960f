"""The seam of kinds of data: a second one pretrains, goes on, embeds, fills a store and is searched."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import forkserver
import numpy as np
import pytest
import torch
import toy_modality
from interrupted import pretrain_until
from PIL import Image
from small import narrow

import nearfar
from nearfar import methods
from nearfar.cli.main import main
from nearfar.core.errors import NearfarError
from nearfar.data import modalities as kinds
from nearfar.images.views import Preprocess
from nearfar.reports import scoring, summary
from nearfar.stores import open_store

TINY = {"steps": 24, "batch_size": 16, "head": (16, 8), "precision": "float32", "workers": 1, "device": "cpu"}

LONG = {**TINY, "steps": 200, "holdout": 0.4}


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kinds.MODALITIES, "sequences", "toy_modality")


def waves(count: int, length: int = 16, seed: int = 0) -> np.ndarray:
    """Sequences of four kinds: waves of one frequency each, alike but for their height and a little noise."""
    draw = np.random.default_rng(seed)
    place, number = np.arange(length) / length, 1 + np.arange(count) % 4
    height = draw.uniform(0.8, 1.2, (count, 1))
    wave = np.sin(2 * np.pi * number[:, None] * place) * height
    return (wave + 0.05 * draw.standard_normal(wave.shape)).astype(np.float32)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "waves.npy"
    np.save(path, waves(160))
    return path


@pytest.fixture(scope="module")
def run(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "waves"
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(kinds.MODALITIES, "sequences", "toy_modality")
        nearfar.pretrain(file, out=folder, **LONG)
    return folder


def test_every_kind_in_the_table_keeps_its_word() -> None:
    for name in kinds.MODALITIES:
        kind = kinds.modality(name)
        assert kind.name == name and kind.preprocess.modality == name
        made = kind.preprocess_for(16, kind.views())
        assert made.size == 16 and kinds.modality_of(made) is kind
    with pytest.raises(NearfarError, match="no kind of data 'smell'"):
        kinds.modality("smell")


def test_the_table_needs_no_torch_until_a_kind_is_at_work() -> None:
    code = (
        "import sys; from nearfar.data.modalities import modality; modality('images').views()\n"
        "print({'torch', 'numpy', 'PIL'} & set(sys.modules))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "set()"


def test_images_are_learnt_from_without_a_file_of_texts_sounds_or_captions(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np, nearfar\n"
        "images = np.random.default_rng(0).integers(0, 256, (64, 16, 16, 3), np.uint8)\n"
        "how = {'steps': 2, 'batch_size': 16, 'encoder': 'resnet10_w16', 'device': 'cpu'}\n"
        "nearfar.pretrain(images, out=sys.argv[1], **how)\n"
        "theirs = ('nearfar.text.', 'nearfar.sound.', 'nearfar.data.pairs', 'nearfar.data.pair_blocks')\n"
        "read = {name for name in sys.modules if name.startswith(theirs)}\n"
        "print(sorted(read - {'nearfar.text.view_settings', 'nearfar.sound.view_settings'}))"
    )
    assert forkserver.run(code, tmp_path / "run", check=True).stdout.strip() == "[]"


def test_a_run_learns_says_its_kind_and_knows_its_health(run: Path) -> None:
    found = nearfar.load(run)
    losses = [line["loss"] for line in found.log()]
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.2
    assert json.loads((run / "encoder.json").read_text())["modality"] == "sequences"
    assert found.config["training"]["modality"] == "sequences"
    assert found.config["views"] == {"noise": 0.1, "shift": 2}
    assert found.preprocess == toy_modality.Preprocess(16)
    health = found.health()
    assert len(health) >= 2 and health[-1]["holdout"]
    assert 1 < health[-1]["rankme"] <= 8
    assert health[-1]["contrastive_accuracy"] > health[0]["contrastive_accuracy"] - 0.2
    assert found.verdict() is not None


@pytest.mark.parametrize(
    "method", [name for name in methods.METHODS if methods.method(name).modality is None]
)
def test_every_method_goes_on_to_the_same_bytes(method: str, tmp_path: Path) -> None:
    data = list(waves(40)), np.arange(40) % 3
    source = kinds.modality("sequences").open(data, labels=True)
    settings = {**{key: value for key, value in TINY.items() if key != "head"}, **narrow(method)}
    settings |= {"method": method, "steps": 7, "batch_size": 8, "recipe": "cpu"}
    nearfar.pretrain(source, out=tmp_path / "unbroken", **settings)

    pretrain_until(4, source, out=tmp_path / "broken", **settings)
    nearfar.pretrain(source, out=tmp_path / "broken", **settings)
    for name in ("encoder.safetensors", "encoder.json", "last.safetensors"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()


def test_threads_change_no_view(file: Path, run: Path, tmp_path: Path) -> None:
    nearfar.pretrain(file, out=tmp_path / "several", **{**LONG, "workers": 3})
    assert (tmp_path / "several/encoder.safetensors").read_bytes() == (
        run / "encoder.safetensors"
    ).read_bytes()


def test_embedding_a_file_and_encoding_what_python_holds_agree(file: Path, run: Path, tmp_path: Path) -> None:
    x = np.load(file)
    made = nearfar.embed(run, file, out=tmp_path / "waves.npz")
    assert made.ids[:2] == ("s000", "s001") and made.vectors.shape == (160, 8)
    with np.load(tmp_path / "waves.npz") as held:
        assert np.array_equal(held["vectors"], made.vectors)
    found = nearfar.load(run)
    assert np.allclose(found.encode(list(x)), made.vectors, atol=1e-6)
    assert np.allclose(found.encode(x[3]), made.vectors[3], atol=1e-6)
    net = found.encoder.net
    with torch.no_grad():
        assert np.allclose(net(torch.from_numpy(x)).numpy(), made.vectors, atol=1e-5)


def test_a_bad_sequence_is_set_aside_by_name(run: Path, tmp_path: Path) -> None:
    data = list(waves(64, seed=5))
    data[3] = np.full(16, np.nan, np.float32)
    made = nearfar.embed(run, data)
    assert "s003" not in made.ids and len(made.ids) == 63
    assert [(item.id, item.reason) for item in made.rejected] == [("s003", "a number is not finite")]
    again = nearfar.pretrain(data, out=tmp_path / "run", **TINY)
    assert (again.path / "rejected.csv").read_text().splitlines()[1:] == ["s003,a number is not finite"]


def test_a_store_is_filled_kept_up_to_date_and_searched(run: Path, tmp_path: Path) -> None:
    x = waves(160)
    store = tmp_path / "waves.nf"
    filled = nearfar.embed(run, list(x), store=store)
    assert (filled.images, filled.encoded) == (160, 160)
    held = open_store(store)
    assert held.info.modality == "sequences"
    assert list(held.columns) == ["id", "path", "label", "digest", "bytes", "length"]
    assert held.rows(["length"]).column("length").to_pylist() == [16] * 160
    assert held.thumbnails(["s000"]) == [b""]
    ids, vectors = held.vectors()
    assert np.allclose(vectors, nearfar.embed(run, list(x)).vectors, atol=1e-6)

    found = nearfar.search(store, id="s004", limit=8)
    frequency = [int(name[1:]) % 4 for name in found.ids]
    assert "s004" not in found.ids and frequency.count(0) >= 7  # chance would find 2 of 8

    x[7] = x[8]
    again = nearfar.embed(run, [*x, *waves(1, seed=9)], store=store)
    assert (again.images, again.encoded, again.known, again.unchanged) == (161, 1, 1, 159)
    held.update("colour", {"s000": "red"})
    with pytest.raises(NearfarError, match="'length' is computed from"):
        held.update("length", {"s000": 3.0})


def test_uses_that_need_no_picture_work_on_a_store(run: Path, tmp_path: Path) -> None:
    x = list(waves(60, seed=3))
    x[40] = x[11]
    store = tmp_path / "waves.nf"
    nearfar.embed(run, x, store=store)
    found = nearfar.duplicates(store)
    assert set(found.ids) == {"s011", "s040"} and found.columns["length"] == [16, 16]
    assert found.columns["same"][1]
    sheet = tmp_path / "like.png"
    assert len(nearfar.search(store, id="s000", limit=5, out=sheet).ids) == 5 and sheet.stat().st_size
    shown = list(waves(8, seed=4)), [f"kind{1 + at % 4}" for at in range(8)]
    named = nearfar.classes(store, examples=kinds.modality("sequences").open(shown, labels=True))
    assert len(named.ids) > 0


def test_an_evaluation_stands_beside_the_baselines_that_the_kind_has(run: Path) -> None:
    def labelled(count: int, seed: int) -> tuple[list[np.ndarray], list[str]]:
        return list(waves(count, seed=seed)), [f"waves{1 + at % 4}" for at in range(count)]

    found = nearfar.evaluate(run, train=labelled(120, 7), test=labelled(60, 8))
    assert set(found.knn) == {"encoder", "untrained", "chance"}
    assert found.knn["encoder"].accuracy > 0.9 > found.knn["chance"].accuracy
    with pytest.raises(NearfarError, match="leave it out for sequences"):
        nearfar.evaluate(run, train=labelled(120, 7), test=labelled(60, 8), parts=["robustness"])


def test_a_store_survives_export_and_import(run: Path, tmp_path: Path) -> None:
    store = tmp_path / "waves.nf"
    nearfar.embed(run, list(waves(40)), store=store)
    for name in ("waves.parquet", "waves.npz", "waves.csv"):
        nearfar.store(store, export_file=tmp_path / name)
        copy = tmp_path / f"{name}.nf"
        nearfar.store(copy, import_file=tmp_path / name)
        held = open_store(copy)
        assert held.info.modality == "sequences" and "width" not in held.columns
        assert held.rows(["id", "length"]).to_pydict() == open_store(store).rows(["id", "length"]).to_pydict()


def test_check_describes_and_plans(file: Path) -> None:
    found = nearfar.check(file, **{**TINY, "steps": 5})
    assert found.inspection.usable == 160 and found.inspection.short is None
    assert found.plan is not None and found.plan.encoder == "two_layers" and found.plan.image_size == 16
    assert "160 usable" in str(found)


def test_kinds_do_not_mix(file: Path, run: Path, photos: Path, tmp_path: Path, monkeypatch) -> None:
    source = kinds.modality("images").open(photos)
    with pytest.raises(NearfarError, match="holds images, not sequences"):
        nearfar.embed(run, source)
    with pytest.raises(NearfarError, match="was trained on sequences, and .* holds images"):
        nearfar.pretrain(photos, out=tmp_path / "a", like=run)
    monkeypatch.setattr(methods.method("simclr"), "modality", "images")
    with pytest.raises(NearfarError, match="--method simclr needs images, and these are sequences"):
        nearfar.pretrain(file, out=tmp_path / "b", **TINY)


def test_the_command_line_has_the_flags_of_the_kind(file: Path, tmp_path: Path, capsys) -> None:
    words = ["pretrain", str(file), "--out", str(tmp_path / "run"), "--steps", "2", "--batch-size", "8"]
    assert main([*words, "--precision", "float32", "--noise", "0.3"]) == 0
    assert nearfar.load(tmp_path / "run").config["views"]["noise"] == 0.3
    assert main([*words, "--crop-min", "0.3"]) == 2
    assert "has no flag --crop-min" in capsys.readouterr().err


def test_a_report_says_what_it_cannot_show(file: Path, run: Path, tmp_path: Path) -> None:
    unmeasured = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("evaluation.json"))
    made = nearfar.report(unmeasured, out=tmp_path / "report.html", data=file)
    text = made.path.read_text(encoding="utf-8")
    assert "Of sequences, no pictures can be shown." in text
    assert "Labelled examples would tell." in text and "See the least similar" not in text
    assert "spectrum" in made.sections
    shown = re.sub(r"<style>.*?</style>|<[^>]*>", " ", text, flags=re.DOTALL)
    assert "learnt from 96 examples" in shown and "views of one example belong together" in shown
    lines = [line for line in shown.splitlines() if re.search(r"(?<!-)\bimages?\b", line)]
    assert all("SimCLR" in line for line in lines)  # what its paper is about


def test_an_evaluation_is_told_in_the_word_of_its_kind() -> None:
    rows = {"accuracy": 0.5, "low": 0.4, "high": 0.6, "confusion": [[3, 1], [2, 2]]}
    each = {"recall": 0.5, "precision": 0.5, "images": 4}
    scores = {
        "knn": {"encoder": {**rows, "per_class": {"a": each, "b": each}}},
        "images": {"test": 8},
        "leaks": {"near_copies": {"images": 1, "left": 7, "without": {}}},
    }
    told = " ".join(map(str, scoring.blocks({"run": scores}, "clips")))
    assert "8 test clips" in told and "1 test clip is not new" in told and "image" not in told
    both = {"a": scores, "b": {**scores, "data": {"test": "elsewhere"}}}
    for said in (summary.limits(scores, 4, 8, "clips"), summary.compared(both, "clips")):
        assert "clips" in said and "image" not in said


def test_images_keep_their_columns_and_answers(photos: Path) -> None:
    kind = kinds.modality("images")
    source = kind.open(photos)
    data, digest = kind.fetch(source, 0, limit=10**6)
    example = kind.decode(data, None, limit=10**6)
    assert example.value.shape == (16, 16, 3) and dict(example.columns) == {"width": 16, "height": 16}
    assert len(digest) == 16 and kind.thumbnail(data, example.value, 96, limit=10**6)[:2] == b"\xff\xd8"
    block = kind.collate([example.value] * 3)
    assert len(block) == 3 and len(block.take(np.array([2, 0]))) == 2


def test_an_image_that_is_squashed_keeps_its_sides_and_is_shown_as_it_is(tmp_path: Path) -> None:
    kind, plan = kinds.modality("images"), Preprocess(32, 1.0, short_side=32, fit="squash")
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    Image.new("RGB", (200, 100), "red").save(tmp_path / "turned.jpg", exif=exif)
    data = (tmp_path / "turned.jpg").read_bytes()
    example = kind.decode(data, plan, limit=10**6)
    assert example.value.shape == (32, 32, 3) and example.columns == {"width": 100, "height": 200}
    shown = Image.open(io.BytesIO(kind.thumbnail(data, example.value, 24, plan, limit=10**6)))
    assert shown.size == (12, 24)


@pytest.mark.parametrize("turn", [1, 6])
@pytest.mark.parametrize(("width", "height"), [(100, 101), (101, 100), (100, 120), (64, 64)])
def test_the_sides_of_an_image_that_is_nearly_a_square_are_not_exchanged(
    width: int, height: int, turn: int
) -> None:
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = turn
    Image.new("RGB", (width, height), "red").save(file, "PNG", exif=exif)
    kind = kinds.modality("images")
    example = kind.decode(file.getvalue(), kind.preprocess(size=32, short_side=32), limit=10**6)
    shown = (width, height) if turn == 1 else (height, width)
    assert (example.columns["width"], example.columns["height"]) == shown

"""Files of strangers and damaged ones end in a sentence: every JSON that is read, hurt in every place."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nearfar
from nearfar.core import arrays
from nearfar.core.config import build
from nearfar.core.errors import NearfarError
from nearfar.core.shapes import check_shape
from nearfar.exports.card import text as model_card
from nearfar.features.extract import fingerprint
from nearfar.finetuning import task_settings
from nearfar.finetuning.classify import Classification
from nearfar.finetuning.prediction_files import Parts
from nearfar.finetuning.segment import Config, Segmentation
from nearfar.finetuning.tuned import open_result
from nearfar.reports import cards, curves, scoring
from nearfar.reports import report as reports
from nearfar.reports.sections import Subject, overview
from nearfar.stores import StoreInfo
from nearfar.training import checkpoint, run_shapes
from nearfar.training.run import Run, load
from nearfar.training.run_config import RunConfig
from nearfar.training.schedule import StepPlan
from nearfar.training.settings import Training
from nearfar.training.teacher import open_teacher

OTHER: tuple[Any, ...] = (None, -1, 10**400, "x", [], {"x": 1})
BYTES = (b"", b"\xff\xfe", b"null", b"[]", b"5", b"{", b'{"a": NaN', b"[" * 100_000, b"\0" * 64)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of a JSON value, but of a long list only the first."""
    if path:
        yield path
    inner = (
        value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    )
    for key, item in inner:
        yield from places(item, (*path, key))


def hurt(value: Any) -> Iterator[tuple[str, Any]]:
    """The value with each of its places missing, and each holding something else."""
    for path in places(value):
        for change in ("missing", *OTHER):
            made = copy.deepcopy(value)
            at = made
            for key in path[:-1]:
                at = at[key]
            if isinstance(change, str) and change == "missing":
                del at[path[-1]]
            else:
                at[path[-1]] = change
            yield f"{path} {str(change)[:20]}", made


def score(accuracy: float) -> dict[str, Any]:
    """A score as evaluations write it."""
    return {
        "accuracy": accuracy,
        "low": accuracy - 0.1,
        "high": accuracy + 0.1,
        "chosen": {"k": 1},
        "per_class": {name: {"images": 6, "recall": 0.5, "precision": None} for name in ("a", "b")},
        "confusion": [[3, 3], [2, 4]],
    }


def evaluation(digest: str) -> dict[str, Any]:
    """What `nearfar evaluate` writes, a little of each."""
    against = {"baseline": "untrained", "outcome": "better", "words": "better by 3 points", "p": 0.01}
    points = [{"labels": 1, "mean": 0.4, "std": 0.1}, {"labels": 2, "mean": 0.5, "std": None}]
    return {
        "summary": {"knn": {"title": "k-NN", "sentence": "k-NN: better", "against": [against]}},
        "knn": {"encoder": score(0.6), "untrained": score(0.4)},
        "few_labels": {"rows": {"encoder": {"linear": points}}, "efficiency": {"sentence": "saves labels"}},
        "leaks": {"pixels": {"images": 1, "left": 11, "without": {"knn": {"encoder": score(0.5)}}}},
        "left_out": {"patches": "it needs more images"},
        "classes": ["a", "b"],
        "images": {"train": 20, "test": 12},
        "encoder": {"sha256": digest},
        "data": {"train": None, "test": "labelled/test"},
        "seed": 0,
        "retrieval": {"encoder": {"map": 0.5}},
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """A finished run of two steps, and an evaluation of it."""
    folder = tmp_path_factory.mktemp("runs") / "a"
    how = {"encoder": "resnet10_w16", "batch_size": 32, "image_size": 16, "precision": "float32"}
    made = nearfar.pretrain(photos, out=folder, steps=2, workers=1, **how)
    (folder / "evaluation.json").write_text(json.dumps(evaluation(fingerprint(made.encoder))))
    return folder


def opened(folder: Path) -> None:
    """Open an encoder as the commands do that learn from it, measure it or export it."""
    run, side = load(folder), json.loads((folder / "encoder.json").read_bytes())["preprocess"]["size"]
    open_teacher(folder).facts(), run.to_json(), run.encoder(torch.zeros(1, 3, side, side))
    cards.model(run), cards.cost(run), cards.provenance(run), model_card(run, "timm")


def use(folder: Path, run: Run, name: str) -> None:
    """Read what a run folder holds as the commands do that take one."""
    config = checkpoint.read_json(folder / "config.json", run_shapes.CONFIG)
    run = dataclasses.replace(run, path=folder, config=config)
    if name == "config.json":
        RunConfig.from_json(config, "")
        StepPlan.of(config["plan"])
        cards.model(run), cards.data(run, None, ()), cards.provenance(run), cards.commands(run, "x.html")
    run.log(), cards.cost(run), curves.last_health([curves.TrainingCurves.of(run, "a")])
    scores, verdict = reports._scores(run, None, None), run.verdict()
    wanted = RunConfig("simclr", "cpu", Training(modality="images"), None, None)
    subject = Subject("a", run, wanted, (), None, "", scores, verdict, None)
    overview([subject, subject]), cards.answers(run, scores, 0)
    if scores and name == "evaluation.json":
        scoring._left_out(scores), scoring._others(scores)
        scoring._leaks(scores, "images"), scoring._classes(scores, "images")
        scoring._summaries({"a": scores}, False), scoring._table({"a": scores}, "images", False)


def refusals(tries: Iterable[tuple[str, bytes]], file: Path, read: Callable[[], object]) -> int:
    """Write each content, read it, and count the refusals; any other exception is a fault."""
    count, faults = 0, []
    for what, content in tries:
        file.write_bytes(content)
        try:
            read()
        except NearfarError as error:
            count += 1
            assert "\n" not in str(error) and len(str(error)) < 600, what
        except Exception as error:
            faults.append(f"{file.name}: {what}: {type(error).__name__}: {error}")
    assert not faults, "\n".join(faults[:20])
    return count


@pytest.mark.parametrize(
    "name", ["encoder.json", "config.json", "evaluation.json", "log.jsonl", "health.jsonl"]
)
def test_a_run_folder_hurt_in_any_place_ends_in_a_sentence(name: str, run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    whole = (folder / name).read_bytes()
    *before, last = whole.splitlines(keepends=True) if name.endswith(".jsonl") else [whole]
    value = json.loads(last)
    if name == "encoder.json":
        value["provenance"] |= {"licence": "MIT", "teacher": {"name": "t", "licence": "MIT", "sha256": "0"}}
    kept = load(folder)
    read = partial(opened, folder) if name == "encoder.json" else partial(use, folder, kept, name)
    read()
    tries = ((what, b"".join(before) + json.dumps(made).encode()) for what, made in hurt(value))
    assert refusals(tries, folder / name, read) > 20
    broken = refusals(((str(text[:9]), text) for text in BYTES), folder / name, read)
    assert broken == len(BYTES) if not before else broken >= 3  # a log cut short is read up to there
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(NearfarError, match=rf"{re.escape(name)} cannot be read"):
        read()


def test_parts_of_a_run_hurt_in_any_way_end_in_a_sentence(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    tensors, facts = checkpoint.read(folder / "parts.safetensors")
    first = next(name for name, value in tensors.items() if value.dim() == 2)

    def begin() -> None:
        Classification(build(task_settings("classify"), {"from_head": 1})).begin(load(folder))

    begin()
    for name, value, said in (
        (first, torch.full_like(tensors[first], torch.nan), "holds NaN or infinite weights"),
        (first, tensors[first][:1], "the head of .*/run does not fit"),
        ("g.1.bias", None, "the head of .*/run does not fit"),
    ):
        made = {key: x for key, x in {**tensors, name: value}.items() if x is not None}
        checkpoint.save(folder / "parts.safetensors", made, facts)
        with pytest.raises(NearfarError, match=said):
            begin()
    checkpoint.save(folder / "parts.safetensors", {"x": tensors[first]}, facts)
    with pytest.raises(NearfarError, match="lacks the part 'g'; train again"):
        begin()
    (folder / "parts.safetensors").unlink()
    (folder / "parts.safetensors").mkdir()
    with pytest.raises(NearfarError, match=r"parts\.safetensors is damaged or missing"):
        begin()


def test_a_save_hurt_in_any_place_ends_in_a_sentence(run: Path, tmp_path: Path) -> None:
    tensors, facts = checkpoint.read(run / checkpoint.LAST)
    for what, made in hurt({**facts, "numbers": {"optimizer.0.step": 1}}):
        checkpoint.save(tmp_path / "last.safetensors", {"x": tensors[next(iter(tensors))][:1]}, made)
        try:
            _, found = checkpoint.read(tmp_path / "last.safetensors", run_shapes.SAVE)
            StepPlan.of(found["plan"])
        except NearfarError:
            continue
        except Exception as error:
            raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error


def test_a_store_says_what_it_is_or_ends_in_a_sentence() -> None:
    whole = StoreInfo(8, "e", "r", {"size": 32}).to_json()
    assert StoreInfo.read(json.dumps(whole), "s.nf").to_json() == whole
    for what, made in hurt(whole):
        try:
            assert StoreInfo.read(json.dumps(made), "s.nf").fixed
        except NearfarError as error:
            assert "\n" not in str(error), what
    for text in BYTES:
        with pytest.raises(NearfarError, match=r"s\.nf: the file is"):
            StoreInfo.read(text, "s.nf")
    with pytest.raises(NearfarError, match="made by a later nearfar, which also keeps 'later'"):
        StoreInfo.read(json.dumps(whole | {"later": 1}), "s.nf")


def test_a_store_hurt_in_its_data_ends_in_a_sentence(run: Path, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    images = draw.integers(0, 255, (8, 16, 16, 3), dtype=np.uint8)
    nearfar.embed(run, images, store=str(tmp_path / "s.nf"))
    with pytest.raises(UnicodeEncodeError):  # which the command line names, and is no damage
        nearfar.open_store(str(tmp_path / "s.nf")).vectors(ids=["\udcff.jpg"])
    (data,) = (tmp_path / "s.nf").rglob("*.lance/data/*.lance")
    whole = data.read_bytes()
    for made in (whole[: len(whole) // 2], whole[: len(whole) // 3] + bytes(400), b"", whole[::-1]):
        data.write_bytes(made)
        with pytest.raises(NearfarError, match=r"s\.nf cannot be (read|opened)") as told:
            nearfar.open_store(str(tmp_path / "s.nf")).vectors()
        assert ".rs" not in str(told.value) and "\n" not in str(told.value)
        with pytest.raises(NearfarError, match="make it anew with nearfar embed"):
            list(nearfar.open_store(str(tmp_path / "s.nf")).pieces()[2])


def test_arrays_that_claim_more_than_their_file_holds_are_refused(tmp_path: Path) -> None:
    import io
    import zipfile

    head, ids = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 8)})
    np.save(ids, np.array(["a"]))
    with zipfile.ZipFile(tmp_path / "n.npz", "w") as archive:
        archive.writestr("ids.npy", ids.getvalue())
        for name in ("vectors", "images"):
            archive.writestr(f"{name}.npy", head.getvalue())
    for call in (lambda p: nearfar.store(tmp_path / "a.nf", import_file=p), nearfar.check):
        with pytest.raises(NearfarError, match=r"\.npy claims 32,000,000,000,000 bytes"):
            call(tmp_path / "n.npz")


def test_arrays_that_inflate_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.zeros((64, 64, 64, 3), np.uint8)
    np.savez_compressed(tmp_path / "n.npz", images=images)
    found = nearfar.check(tmp_path / "n.npz")  # small ones are no danger
    assert found.inspection.usable == 64 and "have one and the same colour" in found.obstacle
    with pytest.raises(NearfarError, match="have one and the same colour, so nothing can be learnt"):
        nearfar.pretrain(tmp_path / "n.npz", out=tmp_path / "run", steps=2)
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(arrays, "INFLATED", 1 << 16)
    with pytest.raises(NearfarError, match=r"images\.npy inflates [\d,]+ bytes to 786,\d\d\d; save it with"):
        nearfar.check(tmp_path / "n.npz")


def test_a_parquet_without_vectors_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for vectors in (pa.array([None, None], pa.list_(pa.float32())), pa.array([[]], pa.list_(pa.float32()))):
        pq.write_table(
            pa.table({"id": ["a", "b"][: len(vectors)], "vector": vectors}), tmp_path / "n.parquet"
        )
        with pytest.raises(NearfarError, match="has no vector in its first row"):
            nearfar.store(tmp_path / "a.nf", import_file=tmp_path / "n.parquet")
    assert not (tmp_path / "a.nf").exists()


def test_shapes() -> None:
    shape = {"a": range(1, 9), "b?": [float], "c?": (None, {"d": str}), str: bool}
    for value in (
        {"a": 1},
        {"a": 8, "b": [1, 2.5], "x": True},
        {"a": 1, "c": {"d": "e"}},
        {"a": 1, "c": None},
    ):
        check_shape(value, shape, "f: ")
    for value, said in (
        ({}, "f: a is missing"),
        ({"a": 9}, "f: a is 9, not a whole number from 1 to 8"),
        ({"a": True}, "f: a is true"),
        ({"a": 1, "b": [1, "x"]}, r'f: b\[1\] is "x", not a number'),
        ({"a": 1, "c": {"d": 5}}, "f: c.d is 5, not a text"),
        ({"a": 1, "x": 0}, "f: x is 0, not true or false"),
        ([], "f: the file is .*, not an object"),
        ({"a": 1, "c": 5}, "f: c is 5, not null or an object"),
        ({"a": 1, "b": {}}, "f: b is {}, not a list"),
    ):
        with pytest.raises(NearfarError, match=said):
            check_shape(value, shape, "f: ")


def test_the_card_of_a_fine_tuned_run_names_what_it_lacks(tmp_path: Path) -> None:
    verdict = {"name": "good", "reason": "", "advice": "", "bad": False}
    result = {"mode": "linear", "classes": ["a"], "figures": {"test": {"fine-tuned": {"accuracy": 1.0}}}}
    result |= {"images": {"train": 3, "test": 2}, "main": "accuracy", "chosen": {}, "per_class": {}}
    card = {"format": 1, "task": "classify", "settings": {}, "card": {}}
    card["result"] = {**result, "verdict": verdict, "notes": []}
    (tmp_path / "encoder.json").touch()

    def read(hurt: Any) -> str:
        (tmp_path / "task.json").write_text(json.dumps(hurt))
        return str(open_result(tmp_path))

    assert "3 training images" in read(card)
    for part in ("train", "test"):
        hurt = copy.deepcopy(card)
        del hurt["result"]["images"][part]
        with pytest.raises(NearfarError, match=rf"result\.images\.{part} is missing"):
            read(hurt)
    hurt = copy.deepcopy(card)
    hurt["result"]["figures"]["test"] = {}
    with pytest.raises(NearfarError, match=r"result\.figures has a part without rows"):
        read(hurt)


@pytest.mark.parametrize(
    "hurt", [{"decoder": "none"}, {"values": [0]}, {"values": ["x", 1]}, {"side": None}, {"classes": None}]
)
def test_the_card_of_a_segmentation_is_taken_whole_or_refused(hurt: dict[str, Any]) -> None:
    card = {"classes": ["a", "b"], "values": [0, 5], "side": 32, "decoder": "unet"}
    Segmentation(Config()).restore(card, "f: ")
    with pytest.raises(NearfarError, match="f: "):
        Segmentation(Config()).restore(card | hurt, "f: ")


def test_a_fine_tuned_run_that_lost_a_file_is_not_told_to_resume_for_ever(tmp_path: Path) -> None:
    def read() -> str:
        with pytest.raises(NearfarError) as told:
            open_result(tmp_path)
        return str(told.value)

    for asked in (None, 5, "task", ["task"]):
        (tmp_path / "config.json").write_text(json.dumps({"asked": asked}))
        assert "config.json: asked is" in read()
    (tmp_path / "config.json").write_text('{"asked": {"task": "classify"}}')
    assert "is not finished; run its nearfar finetune command again" in read()
    (tmp_path / "encoder.json").touch()
    assert "lacks its task.json; train again with --overwrite" in read()


def test_a_part_of_a_prediction_that_is_damaged_is_made_anew(tmp_path: Path) -> None:
    parts = Parts(tmp_path, "key")
    for text in (
        "[]",
        '{"images": "x", "rows": [], "bad": []}',
        '{"images": 1, "rows": [1], "bad": []}',
        "[" * 10**5,
    ):
        (tmp_path / "0000000000.json").write_text(text)
        with pytest.raises(NearfarError, match="run the same command again, which makes it anew"):
            parts.get(0)
        assert not parts.has(0)

"""`nearfar anomalies --parts` on real folders, stores, banks and the layouts of industrial data sets."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from textures import HIGH, WIDE, holed, save, texture

import nearfar
from nearfar.cli.main import main
from nearfar.core.errors import NearfarError
from nearfar.data.defects import Truth
from nearfar.training.run import Run

pytestmark = pytest.mark.usefixtures("small_banks")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("learned")
    for number in range(32):
        save(root / "x" / f"{number}.png", texture(1000 + number))
    how: dict[str, Any] = {"encoder": "resnet10_w16", "batch_size": 16, "steps": 2, "image_size": 32}
    return nearfar.pretrain(root / "x", out=root / "run", device="cpu", **how)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layout: 24 good pictures to learn from; 6 good, 5 holed and one scratched to test; boxes too."""
    root = tmp_path_factory.mktemp("layout")
    for number in range(24):
        save(root / "train" / "good" / f"{number:03d}.png", texture(number))
    for number in range(6):
        save(root / "test" / "good" / f"{number:03d}.png", texture(100 + number))
    for number in range(6):
        pixels, (x1, y1, x2, y2) = holed(200 + number)
        kind = "scratch" if number == 5 else "hole"
        mask = np.zeros((HIGH, WIDE), np.uint8)
        mask[y1:y2, x1:x2] = 255
        save(root / "test" / kind / f"{number:03d}.png", pixels)
        save(root / "ground_truth" / kind / f"{number:03d}_mask.png", mask)
        boxes = root / "boxes" / kind / f"{number:03d}.txt"
        boxes.parent.mkdir(parents=True, exist_ok=True)
        boxes.write_text(f"{x1} {y1} {x2} {y2} {kind}\n\n")
    return root


@pytest.mark.parametrize("method", ["patchcore", "padim", "nearest", "spade", "whitened"])
def test_a_layout_is_measured_kind_by_kind(method: str, run: Run, data: Path) -> None:
    found = nearfar.anomalies(data, parts=method, run=run, fpr=0.1)
    rows = {(row["how"], row["kind"]): row for row in found.facts["measures"]}
    first = rows[f"parts, {method}", "all kinds"]
    assert first["anomalous"] == 6 and first["normal"] == 6
    assert first["image_auroc"]["value"] > 0.9 and first["pixel"]["auroc"]["value"] > 0.9
    assert first["pixel"]["regions"] == 6
    assert rows[f"parts, {method}", "scratch"]["anomalous"] == 1  # a class of one picture
    assert rows[f"parts, {method}", "scratch"]["pixel"]["regions"] == 1
    assert {how for how, _ in rows} == {f"parts, {method}", "pixels", "whole vectors", "difference"}
    assert rows["difference", "all kinds"]["pixel"]["auroc"]["value"] > 0.5
    assert len(found) == 12 and found.facts["normal"] == 15 and found.facts["held_out"] == 9
    text = str(found)
    assert "AUPRO" in text and "Images above " in text and "at most 10 % of new normal images" in text
    worst = found.columns["kind"][0]
    assert worst in ("hole", "scratch")


def test_files_are_written_and_boxes_hold_the_defects(run: Run, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "found"
    found = nearfar.anomalies(data / "test", normal=str(data / "train"), parts=True, run=run, out=out)
    assert {path.name for path in out.iterdir()} == {
        "anomalies.csv", "anomalies.json", "sheet.png", "heat_maps",
    }  # fmt: skip
    # No masks: 24 normal pictures are too few for a threshold of 5 %.
    rows = list(csv.DictReader((out / "anomalies.csv").open()))
    assert [row["id"] for row in rows] == list(found.ids)
    parts = json.loads((out / "anomalies.json").read_text())["parts"]
    hits = 0
    for name in found.ids[:4]:
        x1, y1, x2, y2 = holed(200 + int(name[-7:-4]))[1]
        box = parts[name][0]
        hits += box["x1"] < x2 and x1 < box["x2"] and box["y1"] < y2 and y1 < box["y2"]
    assert hits == 4 and "good" not in " ".join(found.ids[:4])
    maps = sorted((out / "heat_maps").iterdir())
    assert len(maps) == 12 and maps[0].name.startswith("001-")
    assert Image.open(maps[0]).size == (WIDE, HIGH)  # the picture's own size, not square
    assert Image.open(out / "sheet.png").width > 300


def test_masks_show_what_hardly_any_normal_picture_has(run: Run, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "found"
    found = nearfar.anomalies(
        data / "test", normal=str(data / "train" / "good"), parts="nearest", run=run, out=out, fpr=0.1
    )
    masks = {path.name[4:]: np.asarray(Image.open(path)) for path in (out / "masks").iterdir()}
    names = {path.name for path in (out / "heat_maps").iterdir()}
    assert {path.name for path in (out / "masks").iterdir()} == names
    inside, total = 0, 0
    for name in found.ids[:4]:
        x1, y1, x2, y2 = holed(200 + int(name[-7:-4]))[1]
        mask = masks[name.replace("/", "_") + ".png"]
        assert mask.shape == (HIGH, WIDE) and set(np.unique(mask).tolist()) <= {0, 255}
        inside += int((mask[y1:y2, x1:x2] > 0).sum())
        total += int((mask > 0).sum())
    assert inside > 0.3 * 4 * 14 * 14 and inside > 0.3 * total
    good = [mask for name, mask in masks.items() if name.startswith("good")]
    assert len(good) == 6 and sum(bool(mask.any()) for mask in good) <= 3


def test_boxes_in_text_are_read_and_their_kinds_told_apart(run: Run, data: Path) -> None:
    found = nearfar.anomalies(
        data / "test", normal=str(data / "train"), truth=data / "boxes", parts="nearest", run=run
    )
    rows = {(row["how"], row["kind"]): row for row in found.facts["measures"]}
    assert rows["parts, nearest", "hole"]["pixel"]["regions"] == 5
    assert rows["parts, nearest", "all kinds"]["image_auroc"]["value"] > 0.9


def test_a_bank_is_kept_used_and_added_to(run: Run, data: Path, tmp_path: Path) -> None:
    bank, few = tmp_path / "bank.safetensors", tmp_path / "few"
    for number in range(8):
        save(few / f"{number:03d}.png", texture(number))
    how: dict[str, Any] = {"parts": "nearest", "run": run, "bank": bank, "fpr": 0.3}
    first = nearfar.anomalies(data / "test", normal=str(few), **how)
    card = json.loads(bank.with_suffix(".json").read_text())
    assert card["normal"] == 5 and len(card["held_out"]) == 3 and card["encoder"]["name"] == "resnet10_w16"
    again = nearfar.anomalies(data / "test", **how)
    assert again.columns == first.columns and again.facts["threshold"] == first.facts["threshold"]
    for number in range(8, 24):
        save(few / f"{number:03d}.png", texture(number))
    more = nearfar.anomalies(data / "test", normal=str(few), **how)
    assert more.facts["normal"] == 20 and more.facts["held_out"] == 4
    same = nearfar.anomalies(data / "test", normal=str(few), **how)
    assert same.columns == more.columns and same.facts["normal"] == 20
    # What is in the bank has no score; what is held out has one.
    inside = nearfar.anomalies(few, **how)
    assert len(inside) == 4 and "20 pictures are in the bank" in str(inside)


def test_a_picture_more_in_the_bank_keeps_the_threshold(run: Run, data: Path, tmp_path: Path) -> None:
    bank, more = tmp_path / "bank.safetensors", tmp_path / "more"
    how: dict[str, Any] = {"parts": True, "run": run, "bank": bank, "fpr": 0.1}
    first = nearfar.anomalies(data / "test", normal=str(data / "train"), **how)
    more.mkdir()
    shutil.copy(data / "test" / "hole" / "003.png", more / "new.png")  # from now on normal
    second = nearfar.anomalies(data / "test", normal=str(more), **how)
    assert second.facts["normal"] == first.facts["normal"] + 1
    assert second.facts["threshold"] == first.facts["threshold"]
    assert "scored before 1 normal picture was added" in str(second)
    assert "hole/003.png" in first.ids and "hole/003.png" not in second.ids
    # What was held out and comes into the bank sets the threshold no longer.
    held = {one["digest"] for one in json.loads(bank.with_suffix(".json").read_text())["held_out"]}
    for path in (data / "train" / "good").iterdir():
        if hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest() in held:
            shutil.copy(path, more / "held.png")
    third = nearfar.anomalies(data / "test", normal=str(more), **how)
    assert third.facts["held_out"] == first.facts["held_out"] - 1


def test_turned_normal_pictures_make_turned_new_ones_normal(run: Run, tmp_path: Path) -> None:
    bank, new = tmp_path / "bank.safetensors", tmp_path / "new"

    def lines(number: int) -> np.ndarray:  # slanted: a mirror image is another picture
        y, x = np.mgrid[:48, :64]
        draws = np.random.default_rng(number)
        slanted = 120 + 60 * np.sin((2 * x + y + draws.integers(12)) / 2.5)
        return (slanted[:, :, None] + draws.normal(0, 4, (48, 64, 3))).clip(0, 255).astype(np.uint8)

    for number in range(6):
        save(tmp_path / "good" / f"{number}.png", lines(number))
        save(new / f"{number}.png", np.rot90(lines(10 + number), number % 4))
    how: dict[str, Any] = {"normal": str(tmp_path / "good"), "run": run, "size": 48}
    plain = nearfar.anomalies(new, parts=True, bank=tmp_path / "plain.safetensors", **how)
    turned = nearfar.anomalies(new, parts=True, turned=True, bank=bank, **how)
    before, after = (dict(zip(one.ids, one.columns["anomaly_score"], strict=True)) for one in (plain, turned))
    assert all(after[name] < 0.7 * before[name] for name in before if int(name[0]) % 2)
    assert turned.facts["turned"] and json.loads(bank.with_suffix(".json").read_text())["turned"]
    assert "turned: 6 normal pictures" in str(turned)
    assert nearfar.anomalies(new, parts=True, bank=bank, run=run).columns == turned.columns
    with pytest.raises(NearfarError, match="padim compares the same places"):
        nearfar.anomalies(new, parts="padim", turned=True, **how)
    with pytest.raises(NearfarError, match="was made without --turned"):
        nearfar.anomalies(new, parts=True, turned=True, bank=tmp_path / "plain.safetensors", run=run)


def test_a_bank_of_another_encoder_or_a_damaged_one_is_refused(run: Run, data: Path, tmp_path: Path) -> None:
    bank = tmp_path / "bank.safetensors"
    nearfar.anomalies(data / "test", normal=str(data / "train"), parts=True, run=run, bank=bank)
    how: dict[str, Any] = {"encoder": "resnet10_w16", "batch_size": 16, "steps": 1, "image_size": 32}
    for more, words in (
        ({"parts": "padim"}, "with --parts whitened"),
        ({"strides": [4]}, "with --strides 2 4"),
        ({"size": 40}, "with --size 48"),
    ):
        with pytest.raises(NearfarError, match=words):
            nearfar.anomalies(data / "test", run=run, bank=bank, **{"parts": True, **more})
    other = nearfar.pretrain(data / "train", out=tmp_path / "run", device="cpu", seed=5, **how)
    with pytest.raises(NearfarError, match="another encoder"):
        nearfar.anomalies(data / "test", parts=True, run=other, bank=bank)
    bank.write_bytes(bank.read_bytes()[:-8])
    with pytest.raises(NearfarError, match="do not belong together"):
        nearfar.anomalies(data / "test", parts=True, run=run, bank=bank)
    bank.with_suffix(".json").write_text("{")
    with pytest.raises(NearfarError, match="is damaged"):
        nearfar.anomalies(data / "test", parts=True, run=run, bank=bank)
    with pytest.raises(NearfarError, match=r"end in \.safetensors"):
        nearfar.anomalies(data / "test", parts=True, run=run, bank=tmp_path / "bank.pt")


@pytest.mark.parametrize("count", [1, 4, 16])
def test_few_normal_pictures_score_and_promise_no_more_than_they_can(
    count: int, run: Run, data: Path, tmp_path: Path
) -> None:
    for number in range(count):
        save(tmp_path / f"{number}.png", texture(number))
    found = nearfar.anomalies(data / "test", normal=str(tmp_path), parts=True, run=run)
    assert np.isfinite(found.columns["anomaly_score"]).all() and found.facts["threshold"] is None
    assert found.facts["normal"] == count and "flagged" not in found.columns
    assert "too few to promise 5 % false alarms" in str(found)
    assert all(one.startswith(("hole", "scratch")) for one in found.ids[:4])


def test_normal_pictures_that_are_not_clean_are_named_and_survived(
    run: Run, data: Path, tmp_path: Path
) -> None:
    for number in range(38):
        save(tmp_path / f"{number:03d}.png", texture(number))
    for number in (900, 901):  # 5 % of them
        save(tmp_path / f"{number}.png", holed(number)[0])
    found = nearfar.anomalies(data, normal=str(tmp_path), parts=True, run=run, fpr=0.1)
    text = str(found)
    assert "900.png" in text and "901.png" in text
    assert found.facts["measures"][0]["image_auroc"]["value"] > 0.9


def test_pictures_all_alike(run: Run, data: Path, tmp_path: Path) -> None:
    for number in range(40):
        save(tmp_path / f"{number}.png", texture(0))
    found = nearfar.anomalies(data / "test", normal=str(tmp_path), parts=True, run=run)
    assert np.isfinite(found.columns["anomaly_score"]).all() and found.facts["normal"] == 1


def test_a_promise_is_kept(run: Run, tmp_path: Path) -> None:
    for number in range(60):
        save(tmp_path / "good" / f"{number}.png", texture(number))
        save(tmp_path / "new" / f"{number}.png", texture(500 + number))
    found = nearfar.anomalies(tmp_path / "new", normal=str(tmp_path / "good"), parts=True, run=run, fpr=0.05)
    # 19 held out: with a chance of 0.999 no more than 17 of 60 pass a threshold that 5 % pass on average.
    assert found.facts["held_out"] == 19 and found.facts["flagged"] <= 17


def test_masks_of_another_size_and_of_another_shape(data: Path, tmp_path: Path) -> None:
    mask = np.zeros((24, 32), np.uint8)
    mask[4:8, 10:12] = 255
    save(tmp_path / "a.png", mask)
    regions, kinds = Truth(tmp_path).of("a.jpg", (48, 64))
    assert regions.shape == (48, 64) and kinds == {}
    assert np.array_equal(np.argwhere(regions).min(0), [8, 20])
    assert np.array_equal(np.argwhere(regions).max(0), [15, 23])
    assert not Truth(tmp_path).of("b.jpg", (48, 64))[0].any()
    with pytest.raises(NearfarError, match="give masks of the same proportions"):
        Truth(tmp_path).of("a.jpg", (64, 48))
    (tmp_path / "c.txt").write_text("1 2 3\n4 5 6 seven\n")
    with pytest.raises(NearfarError, match="line 1: write a box as x1 y1 x2 y2 kind"):
        Truth(tmp_path).of("c.jpg", (64, 48))
    (tmp_path / "d.txt").write_text("-3 2 9 60 spur\n")
    regions, kinds = Truth(tmp_path).of("d.jpg", (40, 48))
    assert regions[2:, :9].all() and not regions[:2].any() and kinds == {1: "spur"}
    blurred = np.zeros((64, 64), np.uint8)
    blurred[20:41, 20:41] = 255
    save(tmp_path / "e.jpg", blurred)
    regions, _ = Truth(tmp_path).of("e.png", (64, 64))
    assert np.array_equal(regions, blurred // 255)  # what JPEG leaves around a defect is none
    with pytest.raises(NearfarError, match="is no folder"):
        Truth(tmp_path / "none")


def test_where_nothing_is_left_to_score_the_sentence_says_why(run: Run, tmp_path: Path) -> None:
    normal, tmp_path = tmp_path / "normal", tmp_path / "new"
    for number in range(2):
        save(normal / f"{number}.png", texture(number))
    tmp_path.mkdir()
    broken = tmp_path / "0.png"
    broken.write_bytes(b"no image")

    def found() -> Any:
        return nearfar.anomalies(tmp_path, parts="nearest", run=run, normal=str(normal), size=32)

    def said() -> str:
        with pytest.raises(NearfarError) as told:
            found()
        return str(told.value)

    assert "left to score: 0.png cannot be read, and there are no others; name other" in said()
    shutil.copy(normal / "1.png", tmp_path / "1.png")
    assert "left to score: 0.png cannot be read, the others are in the bank; name other" in said()
    broken.unlink()
    assert "left to score: all are in the bank; name other" in said()
    save(tmp_path / "2.png", texture(500))
    assert "1 picture is in the bank of normal ones and is not scored." in str(found())


def test_what_does_not_fit_is_a_sentence(run: Run, data: Path, tmp_path: Path) -> None:
    test, good = data / "test", str(data / "train")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"parts": "patchcor", "normal": good, "run": run}, "did you mean patchcore"),
        ({"parts": True, "run": run}, "name them with --normal"),
        ({"parts": True, "normal": good, "run": run, "strides": [3]}, "no feature map of stride 3"),
        ({"parts": True, "normal": good, "run": run, "anomalous": "x = 1"}, "conditions on a vector store"),
        ({"parts": True, "normal": good, "run": run, "size": 2}, "give 8 pixels or more"),
        ({"parts": True, "normal": good, "run": run, "method": "forest"}, "are for whole images"),
        ({"parts": True, "normal": str(test), "run": run, "fpr": 0.5, "limit": 0}, "give 1 or more"),
        ({"bank": "x.safetensors"}, "add --parts"),
    ]
    for how, words in cases:
        with pytest.raises(NearfarError, match=words):
            nearfar.anomalies(test, **how)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(NearfarError, match="of 1 normal picture none can be used"):
        nearfar.anomalies(test, parts=True, normal=str(tmp_path), run=run)


def test_as_a_command(run: Run, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["anomalies", str(data), "--parts", "padim", "--run", str(run.path), "--size", "32", "--json"]
    assert main([*words, "--strides", "4", "8", "--out", str(tmp_path / "found.csv")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["method"] == "padim" and found["strides"] == [4, 8] and len(found["rows"]) == 12
    assert main(["anomalies", str(data), "--run", str(run.path), "--parts"]) == 0
    assert "whitened with resnet10_w16" in capsys.readouterr().out


def test_on_a_store(run: Run, data: Path, tmp_path: Path) -> None:
    store = tmp_path / "pictures.nf"
    nearfar.embed(run, data, store=store)
    odd = "id LIKE 'test/hole/%' OR id LIKE 'test/scratch/%'"
    found = nearfar.anomalies(
        store,
        parts=True,
        normal="id LIKE 'train/%'",
        anomalous=odd,
        where="id LIKE 'test/%'",
        heat_maps=tmp_path / "maps",
    )
    assert found.facts["measures"][0]["image_auroc"]["value"] > 0.9
    assert found.ids[0].startswith(("test/hole", "test/scratch"))
    assert len(list((tmp_path / "maps").iterdir())) == 12


@pytest.mark.parametrize("method", ["whitened", pytest.param("padim", marks=pytest.mark.long)])
def test_onnx_of_network_and_bank_gives_the_same_scores(
    method: str, run: Run, data: Path, tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    bank, how = tmp_path / "bank.safetensors", {"parts": method, "run": run}
    found = nearfar.anomalies(data / "test", normal=str(data / "train"), bank=bank, fpr=0.1, **how)
    made = nearfar.export(run, to="onnx", bank=bank, out=tmp_path / "made")
    assert made.files == ("README.md", "parts.onnx") and "scores and maps differ" in str(made)
    session = onnxruntime.InferenceSession(str(tmp_path / "made" / "parts.onnx"))
    for name, score in zip(found.ids, found.columns["anomaly_score"], strict=True):
        pixels = np.asarray(Image.open(data / "test" / name))[None]
        theirs, heat = session.run(None, {"picture": pixels})
        assert theirs[0] == pytest.approx(score, rel=1e-3) and heat.shape == (1, HIGH, WIDE)
    card = (tmp_path / "made" / "README.md").read_text()
    assert f"| 10 % | {found.facts['threshold']['value']:.6g} |" in card and "| 1 % |" not in card
    with pytest.raises(NearfarError, match="already exists"):
        nearfar.export(run, to="onnx", bank=bank, out=tmp_path / "made")
    with pytest.raises(NearfarError, match="for --to onnx"):
        nearfar.export(run, to="torch", bank=bank)


def test_a_report_has_a_section_on_parts(run: Run, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    bank, out = tmp_path / "bank.safetensors", tmp_path / "report.html"
    nearfar.anomalies(data / "test", normal=str(data / "train"), bank=bank, parts=True, run=run, fpr=0.1)
    made = nearfar.report(run, out=out, bank=bank)
    assert "parts" in made.sections
    page = out.read_text()
    part = page[page.index('id="parts"') :]
    part = part[: part.index("</section>")]
    assert "bank.safetensors" in part and "normal images in it" in part and "Most anomalous parts" in part
    assert part.count("data:image/webp") == 12 and "10 %" in part
    with pytest.raises(NearfarError, match="name one run with --bank"):
        nearfar.report(run, run, out=out, bank=bank)


def test_onnx_cannot_hold_spade(run: Run, data: Path, tmp_path: Path) -> None:
    bank = tmp_path / "bank.safetensors"
    nearfar.anomalies(data / "test", normal=str(data / "train"), bank=bank, parts="spade", run=run)
    with pytest.raises(NearfarError, match="holds banks of patchcore, whitened"):
        nearfar.export(run, to="onnx", bank=bank)


def test_pictures_of_16_bits_share_one_range(run: Run, tmp_path: Path) -> None:
    for name, count, many in (("good", 6, texture), ("new", 3, texture)):
        for number in range(count):
            grey = many(number + 10 * (name == "new")).mean(2)
            if name == "new" and number == 2:
                grey[10:24, 10:24] = 20
            (tmp_path / name).mkdir(exist_ok=True)
            deep = (1000 + 40 * grey).astype(np.uint16)
            Image.fromarray(deep).save(tmp_path / name / f"{number}.png")
    bank = tmp_path / "bank.safetensors"
    how: dict[str, Any] = {"parts": True, "run": run, "bank": bank, "out": tmp_path / "found"}
    found = nearfar.anomalies(tmp_path / "new", normal=str(tmp_path / "good"), **how)
    assert found.ids[0] == "2.png" and json.loads(bank.with_suffix(".json").read_text())["range"] is not None
    assert nearfar.anomalies(tmp_path / "new", **how).columns == found.columns

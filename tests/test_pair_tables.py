"""Images with captions: the forms they come in, and the caption that a step draws."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_pairs import drawn

from nearfar.core.errors import BadImage, NearfarError
from nearfar.data.modalities import modality
from nearfar.data.pair_blocks import CaptionView, draw_captions
from nearfar.data.pairs import open_pairs
from nearfar.text import tokenizer


def png(value: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (12, 12), (value, 90, 90)).save(file, "PNG")
    return file.getvalue()


def test_tables_with_several_captions_an_image_are_read_and_bad_lines_named(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        (tmp_path / f"{name}.png").write_bytes(png())
    lines = [
        b"path,caption",
        b"a.png,a red box",
        b"b.png,two boxes",
        b"a.png,one box",
        b"missing.png,not there",
        b"c.png,",
        b"d.png,caf\xe9",
        b"b.png,nul \0 byte",
        b",no path",
        b"lonely",
    ]
    (tmp_path / "captions.csv").write_bytes(b"\n".join(lines) + b"\n")
    source = open_pairs(tmp_path)
    assert source.modality == "pairs" and source.ids == ["a.png", "b.png", "missing.png", "c.png", "d.png"]
    assert source.captions[0] == ("a red box", "one box") and source.captions[1] == ("two boxes",)
    aside = {one.id: one.reason for one in source.set_aside}
    assert aside == {
        "captions.csv:8": "caption: no text: it holds NUL bytes",
        "captions.csv:9": "no path",
        "captions.csv:10": "a column is missing",
    }
    kind = modality("pairs")
    told = str(kind.describe(source, limit=10**6, threads=1))
    assert "captions    3 unusable" in told and "captions.csv:9: no path" in told
    settings = kind.decided(source, {}, folders=(), start=None)
    preprocess = kind.preprocess_for(12, kind.views(**settings))
    found = kind.load(source, preprocess, limit=10**6, max_bad=1.0, threads=1)
    assert list(found.ids) == ["a.png", "b.png"] and [len(texts) for texts in found.captions] == [2, 1]
    reasons = {one.id: one.reason for one in found.rejected}
    assert "no such file" in reasons["missing.png"] and reasons["c.png"] == "caption: empty"
    assert "not UTF-8" in reasons["d.png"] and "captions.csv:8" in reasons


def test_json_lines_parquet_shards_text_files_and_lists_give_the_same(tmp_path: Path) -> None:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    captions = {"a": ["red", "a box"], "b": ["blue"], "c": ["green one"]}
    for number, (name, texts) in enumerate(captions.items()):
        (tmp_path / f"{name}.png").write_bytes(png(number))
        (tmp_path / f"{name}.txt").write_text("\n".join(texts) + "\n")
    rows = [{"file_name": f"{name}.png", "text": texts} for name, texts in captions.items()]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\nno json\n[1]\n")
    flat = [(f"{name}.png", text) for name, texts in captions.items() for text in texts]
    table = arrow.table({"path": [path for path, _ in flat], "caption": [text for _, text in flat]})
    parquet.write_table(table, tmp_path / "list.parquet")
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for name in captions:
            tar.add(tmp_path / f"{name}.png", f"{name}.png")
            tar.add(tmp_path / f"{name}.txt", f"{name}.txt")
    held = [(Image.open(tmp_path / f"{name}.png"), texts) for name, texts in captions.items()]
    places = [tmp_path / "list.jsonl", tmp_path / "list.parquet", tmp_path / "shard.tar", tmp_path, held]
    for place in places:
        source = open_pairs(place)
        assert list(source.captions) == [tuple(texts) for texts in captions.values()], place
        first = source.read(0)
        assert isinstance(first, (bytes, Path, np.ndarray))
    assert [one.reason for one in open_pairs(tmp_path / "list.jsonl").set_aside] == ["no JSON object"] * 2
    (tmp_path / "list.jsonl").write_text(
        '{"path": "a.png", "caption": "one"}\n{"path": "b.png", "caption": "half \\ud800"}\n'
        '{"path": "c\\ud800.png", "caption": "three"}\n'
    )
    source = open_pairs(tmp_path / "list.jsonl")
    assert source.bad == {1: "caption: not UTF-8: byte 5 fits no letter; save it as UTF-8"}
    with pytest.raises(BadImage, match="its name is no text"):
        modality("pairs").fetch(source, 2, limit=10**6)
    (tmp_path / "b.txt").unlink()
    assert "no .txt of its name" in open_pairs(tmp_path).bad[1]
    os.mkfifo(tmp_path / "b.txt")
    assert open_pairs(tmp_path).bad[1] == "caption: unreadable: not a regular file"
    odd: tuple[object, ...] = (tmp_path / "none", [], [1, 2], tmp_path / "a.png", {})
    for one in odd:
        with pytest.raises(NearfarError, match="captions"):
            open_pairs(one)
    (tmp_path / "captions.csv").write_text("path,words\na.png,x\n")
    with pytest.raises(NearfarError, match="no column of captions"):
        open_pairs(tmp_path)


def test_a_path_that_comes_again_in_a_list_keeps_each_of_its_captions(tmp_path: Path) -> None:
    for value, name in enumerate(("a.png", "b.png")):
        (tmp_path / name).write_bytes(png(value))
    a, b, held = tmp_path / "a.png", str(tmp_path / "b.png"), Image.new("RGB", (12, 12), "red")
    pairs = [(a, "a cat"), (b, "a dog"), (str(a), ["asleep", "a cat"]), (held, "red"), (held, "a box")]
    source = open_pairs(pairs)
    assert list(source.ids) == [str(a), b, "2", "3"]
    kind = modality("pairs")
    preprocess = kind.preprocess_for(12, kind.views(**kind.decided(source, {}, folders=(), start=None)))
    found = kind.load(source, preprocess, limit=10**6, max_bad=0.0, threads=1)
    assert source.captions == [("a cat", "asleep"), ("a dog",), ("red",), ("a box",)]
    assert [len(texts) for texts in found.captions] == [2, 1, 1, 1]


def test_one_caption_is_drawn_a_step_from_the_seed_and_the_image() -> None:
    images, captions = drawn(12)
    source = open_pairs(
        [(image, [text, f"see {text}"]) for image, text in zip(images, captions, strict=True)]
    )
    kind = modality("pairs")
    views = kind.views(**kind.decided(source, {}, folders=(), start=None))
    needs = kind.preprocess_for(24, views)
    block = kind.load(source, needs, limit=10**6, max_bad=0, threads=1).gather(np.arange(12))
    drawn_now = draw_captions(7, np.arange(12), block)
    assert set(drawn_now.tolist()) == {0, 1}
    part = np.array([5, 2])
    assert draw_captions(7, part, block.take(part)).tolist() == drawn_now[part].tolist()
    view = CaptionView(views)
    ids = kind.apply(block, kind.draw(view, 7, np.arange(12), block, 24), view, 24)
    assert ids.dtype == torch.int64 and ids.shape[0] == 12
    for row, at in enumerate(drawn_now):
        text = source.captions[row][at]
        told = tokenizer.encode(needs.tokenizer, text, 64)
        assert ids[row, : len(told)].tolist() == told.tolist() and not ids[row, len(told) :].any()
    assert kind.apply(block, kind.draw(views, 7, np.arange(12), block, 24), views, 24).shape == (
        12,
        3,
        24,
        24,
    )


def test_tables_of_which_no_pair_can_be_learnt_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    for text, words in [
        (b"", "captions.csv has no column of paths: its first line is empty"),
        ("path,caption\na.png,x\n".encode("utf-16-le"), "is not UTF-8 text: it holds NUL bytes"),
        (b"path,caption\na.png,a cat\nb.png,a cat\n", "have the same captions"),
    ]:
        (tmp_path / "captions.csv").write_bytes(text)
        with pytest.raises(NearfarError, match=words):
            open_pairs(tmp_path)

"""Features and files of vectors: stable to the batch, the same bytes after a kill, the encoder untouched."""

import copy
import dataclasses
import json
import shutil
import signal
import sys
import time

import forkserver
import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import nn

from nearfar import models
from nearfar.core.errors import NearfarError
from nearfar.data.sources import open_source
from nearfar.embedding.embed import embed
from nearfar.features import chunked
from nearfar.features.extract import features, fingerprint
from nearfar.features.files import write_vectors
from nearfar.images.views import Preprocess
from nearfar.training.run import Run, export, load

PREPROCESS = Preprocess.of(16)
ENCODER = "resnet10_w16"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Forty pictures of several shapes in two classes, and two bad files."""
    root = tmp_path_factory.mktemp("pictures")
    draw = np.random.default_rng(0)
    for k in range(40):
        place = root / ("round" if k % 2 else "square")
        place.mkdir(exist_ok=True)
        pixels = draw.integers(0, 256, (16 + k % 5, 16 + k % 7, 3), np.uint8)
        Image.fromarray(pixels).save(place / f"é {k:02d}.png")
    (root / "round" / "empty.png").write_bytes(b"")
    (root / "square" / "words.jpg").write_bytes(b"no picture at all")
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    net = models.encoder(ENCODER, size=16, seed=3)
    # Give batch norm something to do that eval mode must use.
    with torch.no_grad():
        net(torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    export(path, net, PREPROCESS, {"method": "none"})
    return load(path)


class _Array:
    """A store over an array, for `features` alone."""

    def __init__(self, pixels):
        self.pixels = pixels

    def __len__(self):
        return len(self.pixels)

    def gather(self, rows):
        from nearfar.data.dataset import RaggedImages

        h, w = self.pixels.shape[1:3]
        size = h * w * 3
        full = np.full(len(rows), h, np.int32)
        return RaggedImages(
            self.pixels.reshape(-1), rows.astype(np.int64) * size, full, np.full_like(full, w)
        )


@pytest.fixture(scope="module")
def store():
    return _Array(np.random.default_rng(1).integers(0, 256, (37, 16, 16, 3), np.uint8))


def test_features_are_the_encoder_on_the_pixels(run, store):
    x = torch.from_numpy(store.pixels).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        want = run.encoder.eval()(x).numpy()
    assert np.allclose(features(run.encoder, store, PREPROCESS), want, atol=1e-5)


def test_the_batch_and_the_threads_do_not_matter(run, store):
    want = features(run.encoder, store, PREPROCESS, batch_size=37, threads=1)
    for batch, threads in ((1, 1), (5, 3), (36, 2), (1000, 1)):
        found = features(run.encoder, store, PREPROCESS, batch_size=batch, threads=threads)
        assert np.abs(found - want).max() <= 1e-5 * np.abs(want).max()


class _Watching(nn.Module):
    """Flattens, and notes how many images it was given and how many threads torch had."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__()
        self.seen, self.fails = [], fails

    def forward(self, x):
        self.seen.append((len(x), torch.get_num_threads()))
        if self.fails:
            raise ValueError("broken")
        return x.flatten(1)


def test_each_of_torchs_threads_encodes_a_part_of_a_batch_by_itself(store, monkeypatch):
    want = features(nn.Flatten(), store, PREPROCESS)
    before = torch.get_num_threads()
    monkeypatch.setattr("nearfar.features.extract.compute_threads", torch.get_num_threads)
    torch.set_num_threads(3)
    try:
        net = _Watching()
        assert np.array_equal(features(net, store, PREPROCESS, batch_size=15), want)
        assert sorted(net.seen) == [(2, 1), *[(5, 1)] * 7]
        with pytest.raises(ValueError, match="broken"):
            features(_Watching(fails=True), store, PREPROCESS)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_the_encoder_is_left_as_it_was(run, store):
    net = run.encoder
    net.train()
    frozen = next(part for part in net.modules() if isinstance(part, nn.BatchNorm2d)).eval()
    before = fingerprint(net)
    features(net, store, PREPROCESS)
    assert fingerprint(net) == before
    assert net.training and not frozen.training
    net.eval()


def test_the_fingerprint_sees_one_bit(run):
    before = fingerprint(run.encoder)
    norm = next(part for part in run.encoder.modules() if isinstance(part, nn.BatchNorm2d))
    norm.running_mean[0] += 1e-3
    assert fingerprint(run.encoder) != before
    norm.running_mean[0] -= 1e-3


class _Tight(nn.Module):
    """A device with room for three images."""

    def forward(self, x):
        if len(x) > 3:
            raise torch.OutOfMemoryError("out of memory")
        return x.flatten(1)


def test_too_large_a_batch_is_halved_until_it_fits(store):
    found = features(_Tight(), store, PREPROCESS, batch_size=20)
    assert np.array_equal(found, features(nn.Flatten(), store, PREPROCESS))


def test_every_format_holds_the_same(run, folder, tmp_path):
    memory = embed(run, folder, labels=True)
    assert memory.path is None and len(memory.ids) == 40 and memory.vectors.dtype == np.float32
    assert {item.id for item in memory.rejected} == {"round/empty.png", "square/words.jpg"}
    assert list(memory.ids) == [
        name for name in open_source(folder).ids if "empty" not in name and "words" not in name
    ]
    for suffix in ("parquet", "npz", "npy"):
        result = embed(run, folder, out=tmp_path / f"v.{suffix}", labels=True)
        assert result.ids == memory.ids and np.array_equal(result.vectors, memory.vectors)
        assert not (tmp_path / f"v.{suffix}.parts").exists()
    table = pq.read_table(tmp_path / "v.parquet")
    assert table.column_names == ["id", "label", "vector"]
    assert table["id"].to_pylist() == list(memory.ids)
    assert table["label"].to_pylist() == [name.split("/")[0] for name in memory.ids]
    assert str(table.schema.field("vector").type).startswith("fixed_size_list<")
    assert np.array_equal(np.array(table["vector"].to_pylist(), np.float32), memory.vectors)
    facts = json.loads(table.schema.metadata[b"nearfar"])
    assert facts["encoder"] == fingerprint(run.encoder) and facts["preprocess"]["size"] == 16
    with np.load(tmp_path / "v.npz", allow_pickle=False) as file:
        assert file["ids"].tolist() == list(memory.ids) and np.array_equal(file["vectors"], memory.vectors)
        assert file["labels"].tolist() == list(memory.labels)
    assert np.array_equal(np.load(tmp_path / "v.npy"), memory.vectors)
    assert (tmp_path / "v.ids.txt").read_text(encoding="utf-8").splitlines() == list(memory.ids)
    assert "empty file" in (tmp_path / "v.npy.rejected.csv").read_text(encoding="utf-8")
    assert json.dumps(memory.to_json())


def test_a_name_with_a_line_break_of_any_kind_is_one_line(tmp_path):
    names = ["a\nb", "a\r\nb", "a\rb", "a\x85b", "a\u2028b", "a\\nb", "é"]
    write_vectors(tmp_path / "v.npy", names, np.zeros((len(names), 2), np.float32), None, {})
    lines = (tmp_path / "v.ids.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(names) == len(set(lines)) and lines[0] == r"a\nb" and lines[-1] == "é"


def test_without_labels_there_is_no_label_column(run, folder, tmp_path):
    embed(run, folder, out=tmp_path / "v.parquet")
    assert pq.read_table(tmp_path / "v.parquet").column_names == ["id", "vector"]


KILLED = """
import sys, time
import nearfar.embedding.embed
from nearfar.features import chunked
chunked.CHUNK_IMAGES = sys.modules["nearfar.embedding.embed"].CHUNK_IMAGES = 4
keep = chunked.Journal.put
def put(self, low, part):
    keep(self, low, part)
    time.sleep(0.3)
chunked.Journal.put = put
nearfar.embed(sys.argv[1], sys.argv[2], out=sys.argv[3], labels=True)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_a_killed_job_goes_on_to_the_same_bytes(run, folder, tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole.npz", tmp_path / "broken.npz"
    monkeypatch.setattr(chunked, "CHUNK_IMAGES", 4)
    monkeypatch.setattr(sys.modules["nearfar.embedding.embed"], "CHUNK_IMAGES", 4)
    embed(run, folder, out=whole, labels=True)
    parts = tmp_path / "broken.npz.parts"
    process = forkserver.start(KILLED, run.path, folder, broken)
    until = time.monotonic() + 120
    while len(list(parts.glob("[0-9]*.npz"))) < 3 and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = sorted(path for path in parts.glob("[0-9]*.npz"))
    assert 3 <= len(done) < 11 and not broken.exists()
    done[-1].write_bytes(done[-1].read_bytes()[:50])  # as a power cut might leave it
    written: list[int] = []
    keep = chunked.Journal.put

    def put(self, low, part):
        written.append(low)
        keep(self, low, part)

    monkeypatch.setattr(chunked.Journal, "put", put)
    embed(run, folder, out=broken, labels=True)
    assert broken.read_bytes() == whole.read_bytes()
    assert written == [4 * k for k in range(11)][len(done) - 1 :]
    assert not parts.exists()


def test_finished_stretches_are_not_done_again_unless_the_job_is_another(run, folder, tmp_path):
    source = open_source(folder)
    journal = chunked.Journal(tmp_path, "a")
    part = chunked.ChunkResult(
        np.arange(3), np.ones((3, 2), np.float32), np.array([3]), np.array(["truncated"])
    )
    journal.put(0, part)
    again = chunked.Journal(tmp_path, "a").get(0)
    assert (
        again is not None and np.array_equal(again.vectors, part.vectors) and again.reasons[0] == "truncated"
    )
    assert chunked.Journal(tmp_path, "b").get(0) is None
    assert len(next(iter(chunked.read_chunks(source, [0], run.preprocess, 2)))) == 40


def test_mistakes_are_named(run, folder, tmp_path):
    (tmp_path / "mine.ids.txt").write_text("kept")
    with pytest.raises(NearfarError, match=r"would also write .*mine\.ids\.txt, which is there"):
        embed(run, folder, out=tmp_path / "mine.npy")
    assert (tmp_path / "mine.ids.txt").read_text() == "kept"
    with pytest.raises(NearfarError, match=r"\.parquet, \.npz or \.npy"):
        embed(run, folder, out=tmp_path / "v.csv")
    (tmp_path / "v.npy").mkdir()
    with pytest.raises(NearfarError, match="is a folder"):
        embed(run, folder, out=tmp_path / "v.npy")
    with pytest.raises(NearfarError, match="no run"):
        embed(tmp_path, folder)
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "a.png").write_bytes(b"")
    with pytest.raises(NearfarError, match=r"of 1 image .* none .*empty file.*nearfar check"):
        embed(run, bad)
    (tmp_path / "none").mkdir()
    for how in ({"out": tmp_path / "w.npy"}, {"out": tmp_path / "p", "part": "1/2"}):
        with pytest.raises(NearfarError, match="there is no image"):
            embed(run, tmp_path / "none", **how)
    assert not (tmp_path / "w.npy.parts").exists() and not [*(tmp_path / "p").iterdir()]
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NearfarError, match="cannot be written"):
        embed(run, folder, out=tmp_path / "file" / "v.npy")


def test_an_array_gives_its_rows_in_order(run, store):
    result = embed(run, store.pixels)
    assert len(result.ids) == 37 and isinstance(run, Run)
    assert np.array_equal(result.vectors, features(run.encoder, store, PREPROCESS))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_no_number_is_refused_wherever_a_run_is_opened(run, folder, tmp_path, value):
    shutil.copytree(run.path, tmp_path / "run")
    weights = tmp_path / "run" / "encoder.safetensors"
    state = safetensors.torch.load_file(weights)
    next(tensor for tensor in state.values() if tensor.dim() == 4).view(-1)[0] = value
    safetensors.torch.save_file(state, weights)
    for use in (
        lambda: load(tmp_path / "run"),
        lambda: embed(tmp_path / "run", folder, out=tmp_path / "v.npz"),
        lambda: embed(tmp_path / "run", folder, store=tmp_path / "s.nf"),
        lambda: models.encoder(ENCODER, size=16, weights=str(weights)),
    ):
        with pytest.raises(NearfarError, match="NaN or infinite"):
            use()
    assert sorted(item.name for item in tmp_path.iterdir()) == ["run"]


def test_vectors_that_are_no_numbers_are_refused(run, folder, tmp_path):
    broken = copy.deepcopy(run.encoder)
    with torch.no_grad():  # every weight is a number, and what comes of them is not
        for weight in broken.parameters():
            weight.fill_(3e38)
    broken = dataclasses.replace(run, encoder=broken)
    pixels = np.full((2, 16, 16, 3), 200, np.uint8)
    for use in (
        lambda: broken.encode(pixels),
        lambda: embed(broken, folder),
        lambda: embed(broken, folder, out=tmp_path / "v.npz"),
        lambda: embed(broken, folder, store=tmp_path / "s.nf"),
    ):
        with pytest.raises(NearfarError, match="the encoder gives NaN or infinite values for"):
            use()
    assert not (tmp_path / "v.npz").exists()


def test_a_file_of_vectors_removes_only_what_it_wrote(run, folder, tmp_path):
    parts = tmp_path / "v.npz.parts"
    parts.mkdir()
    for name in ("notes.txt", "2024.npz"):
        (parts / name).write_text("precious")
    embed(run, folder, out=tmp_path / "v.npz")
    assert sorted(item.name for item in parts.iterdir()) == ["2024.npz", "notes.txt"]
    embed(run, folder, out=tmp_path / "w.npz")
    assert not (tmp_path / "w.npz.parts").exists()

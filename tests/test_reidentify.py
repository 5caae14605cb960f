"""Re-identification: ranks against slow loops, names of files, splits, training, the search of a gallery."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image

import nearfar
from nearfar import models
from nearfar.analysis import identity_scores
from nearfar.analysis.identity_scores import BOTH, GALLERY, QUERY, Identities
from nearfar.analysis.reranking import Reranking
from nearfar.core.errors import NearfarError
from nearfar.data.groups import read_groups
from nearfar.data.identity_labels import open_identities
from nearfar.finetuning import identity_data, outcome
from nearfar.finetuning.identity_network import whitening, within
from nearfar.finetuning.reidentify import Reidentification
from nearfar.finetuning.task_types import Where
from nearfar.images.views import Preprocess
from nearfar.training.run import export

WORDS = {"precision": "float32", "device": "cpu", "workers": 1, "batch_size": 16}


def slow(x, who: Identities) -> tuple[float, dict[int, float]]:
    """Rank by plain loops, as the paper's protocol has it."""
    precisions, firsts = [], []
    for q in range(len(x)):
        if who.roles[q] == GALLERY:
            continue
        ranked = []
        for g in range(len(x)):
            same = who.identities[g] == who.identities[q]
            own_camera = same and who.cameras[q] >= 0 and who.cameras[g] == who.cameras[q]
            if g != q and who.roles[g] != QUERY and not own_camera:
                ranked.append((-float(x[q] @ x[g]), g, bool(same)))
        hits = [same for _, _, same in sorted(ranked)]
        if any(hits):
            precisions.append(np.mean([sum(hits[: at + 1]) / (at + 1) for at, hit in enumerate(hits) if hit]))
            firsts.append(hits.index(True))
    return float(np.mean(precisions)), {k: float(np.mean([at < k for at in firsts])) for k in (1, 5, 10)}


def people(case: str, n: int = 60) -> Identities:
    draw = np.random.default_rng(1)
    cameras = np.full(n, -1) if case == "alone" else draw.integers(-1, 3, n)
    roles = draw.integers(1, 3, n) if case == "query and gallery" else np.full(n, BOTH)
    return Identities(draw.integers(0, 12, n), cameras, roles)


@pytest.mark.parametrize("case", ["alone", "cameras", "query and gallery"])
def test_ranks_are_those_of_plain_loops(case, monkeypatch) -> None:
    who = people(case)
    x = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    monkeypatch.setattr(identity_scores, "TILE", 300)  # several parts
    found = identity_scores.scores(who, identity_scores.by_cosine(x))
    expected, ranks = slow(x, who)
    assert found.map == pytest.approx(expected, abs=1e-9) and found.ranks == pytest.approx(ranks)
    assert found.low < found.map < found.high
    assert 0 < len(found.queries) <= (who.roles != GALLERY).sum()


@pytest.mark.parametrize("case", ["alone", "cameras", "query and gallery"])
def test_chance_is_the_mean_of_rankings_at_random(case) -> None:
    who, draw = people(case), np.random.default_rng(6)

    def at_random(queries, gallery):
        return draw.random((len(queries), len(gallery))).astype(np.float32)

    drawn = [identity_scores.scores(who, at_random) for _ in range(300)]
    assert {one.chance for one in drawn} == {drawn[0].chance}
    assert np.mean([one.map for one in drawn]) == pytest.approx(drawn[0].chance, abs=0.005)


def test_individuals_that_are_found_by_chance_are_not_learnt() -> None:
    targets = np.array([[0, -1, 0]] * 11 + [[1, -1, 0]], np.int64)
    x = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    data = SimpleNamespace(targets=targets, classes=("rex", "tom"))
    figures = identity_data.figures(x / np.linalg.norm(x, axis=1, keepdims=True), data, rerank=False)
    verdict = outcome.judge("full", "test", {outcome.TUNED: figures}, [])
    assert figures.score > 0.9 and verdict.bad and "better than chance" in verdict.name


def test_average_precision_is_scikit_learns() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    who = people("alone")
    x = np.random.default_rng(3).normal(size=(60, 4)).astype(np.float32)
    found = identity_scores.scores(who, identity_scores.by_cosine(x))
    for row, precision in zip(found.queries.tolist(), found.precisions.tolist(), strict=True):
        others = np.arange(60) != row
        truth = (who.identities == who.identities[row])[others]
        assert precision == pytest.approx(
            metrics.average_precision_score(truth, (x @ x[row])[others]), abs=1e-6
        )


def slow_reranking(x, queries, gallery, k1, k2, share):
    """The paper's equations, with sets and dense matrices."""
    n = len(x)
    far = np.maximum(2 - 2 * x @ x.T, 0)
    np.fill_diagonal(far, -1)
    near = np.argsort(far, axis=1, kind="stable")
    np.fill_diagonal(far, 0)
    far = far / far.max(1, keepdims=True)

    def mutual(i, k):
        return {j for j in near[i, : k + 1].tolist() if i in near[j, : k + 1]}

    v = np.zeros((n, n))
    for i in range(n):
        kept = own = mutual(i, k1)
        for j in own:
            half = mutual(j, round(k1 / 2))
            if len(half & own) > 2 / 3 * len(half):
                kept = kept | half
        for j in kept:
            v[i, j] = np.exp(-far[i, j])
        v[i] /= v[i].sum()
    v = np.stack([v[near[i, :k2]].mean(0) for i in range(n)])
    jaccard = np.array(
        [[1 - np.minimum(v[q], v[g]).sum() / np.maximum(v[q], v[g]).sum() for g in gallery] for q in queries]
    )
    return 1 - ((1 - share) * jaccard + share * far[np.ix_(queries, gallery)])


def test_re_ranking_is_that_of_plain_sets() -> None:
    x = np.random.default_rng(4).normal(size=(40, 6)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    queries, gallery = np.arange(7), np.arange(7, 40)
    found = Reranking(x, 8, 4, 0.3)(queries, gallery)
    assert np.allclose(found, slow_reranking(x, queries, gallery, 8, 4, 0.3), atol=1e-5)


def test_whitening_makes_variation_within_an_identity_alike() -> None:
    draw = np.random.default_rng(0)
    who = np.repeat(np.arange(20), 10)
    x = (3 * draw.normal(size=(20, 4))[who] + draw.normal(size=(200, 4)) * [5, 1, 0.2, 1]).astype(np.float32)
    mapped = x @ whitening(*within(x, who), 0.0)
    values, _ = within(mapped, who)
    assert np.allclose(values, values.mean(), rtol=1e-3)
    assert np.allclose(whitening(*within(x, who), 1.0), np.eye(4), atol=1e-6)


def picture(path: Path, colour, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).normal(0, 25, (16, 16, 3)) + np.asarray(colour)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)


def test_identities_are_read_from_names_folders_and_lists(tmp_path) -> None:
    market = tmp_path / "market"
    names = ("query/0002_c1s1_000451_03.jpg", "bounding_box_test/0002_c2s1_000301_01.jpg",
             "bounding_box_test/-1_c1s1_000401_03.jpg", "bounding_box_train/0007_c3s3_0_03.jpg")  # fmt: skip
    for at, name in enumerate(names):
        picture(market / name, (90, 90, 90), at)
    found = open_identities(market)
    assert found.identities == ("0002", "0002") and found.cameras == ("2", "1")
    assert found.roles == ("gallery", "query") and found.notes[0].startswith("2 images are left out of ")
    folders = tmp_path / "folders"
    for part in ("query", "gallery"):
        picture(folders / part / "rex" / "a.png", (90, 90, 90), 0)
    found = open_identities(folders)
    assert found.identities == ("rex", "rex") and found.roles == ("gallery", "query")
    found = open_identities(folders, pattern=r"/(?P<identity>\w)ex/")
    assert found.identities == ("r", "r") and found.cameras == ("", "")
    listed = tmp_path / "list.csv"
    listed.write_text(
        "path,identity,camera,role\nfolders/query/rex/a.png,rex,north,query\nfolders/gallery/rex/a.png,rex,,gallery\n"
    )
    for found in (open_identities(listed), open_identities(folders, labels=listed)):
        assert sorted(zip(found.identities, found.cameras, found.roles, strict=True)) == [
            ("rex", "", "gallery"),
            ("rex", "north", "query"),
        ]


def test_lists_of_identities_and_groups_may_be_parquet(tmp_path) -> None:
    for name in ("a.png", "b.png", "c.png", "d.png"):
        picture(tmp_path / name, (90, 90, 90), 0)
    listed = tmp_path / "list.parquet"
    columns = {"path": ["a.png", "b.png", "c.png", "d.png"], "identity": [7, 7, 12, -1]}
    parquet.write_table(pa.table({**columns, "camera": [1.0, None, 2.0, 1.0]}), listed)
    for found in (open_identities(listed), open_identities(tmp_path, labels=listed)):
        assert found.identities == ("7", "7", "12") and found.cameras == ("1", "", "2")
    parquet.write_table(pa.table({**columns, "identity": [7, None, 12, 3]}), listed)
    with pytest.raises(NearfarError, match="line 2: an image or its identity is missing"):
        open_identities(listed)
    parquet.write_table(pa.table({"path": columns["path"], "group": [1, 1, 2, 3]}), listed)
    assert read_groups(listed).of["b.png"] == "1"
    listed.write_bytes(b"PAR1 nothing")
    with pytest.raises(NearfarError, match="list.parquet cannot be read as a list of groups"):
        read_groups(listed)


def test_mistakes_are_sentences(tmp_path) -> None:
    picture(tmp_path / "query" / "a.png", (90, 90, 90), 0)
    picture(tmp_path / "gallery" / "b.png", (90, 90, 90), 0)
    with pytest.raises(NearfarError, match="nothing tells who is on its images"):
        open_identities(tmp_path)
    with pytest.raises(NearfarError, match="has no group for the identity"):
        open_identities(tmp_path, pattern="a")
    with pytest.raises(NearfarError, match="does not match 'gallery/b.png'"):
        open_identities(tmp_path, pattern="(?P<identity>a.png)")
    (tmp_path / "l.csv").write_text("path,identity,role\nquery/a.png,x,nobody\n")
    with pytest.raises(NearfarError, match="'nobody' is neither query nor gallery"):
        open_identities(tmp_path, labels=tmp_path / "l.csv")
    one = tmp_path / "one"
    for at in range(4):
        picture(one / f"k{at}" / "a.png", (90, 90, 90), at)
    with pytest.raises(NearfarError, match="several images of each"):
        Reidentification().read(one, Preprocess.of(16), Where())


@pytest.fixture(scope="module")
def animals(tmp_path_factory) -> Path:
    """Folders train/ and test/ of identities that are colours; the test's are others."""
    root = tmp_path_factory.mktemp("animals")
    colours = np.random.default_rng(5).uniform(30, 220, (14, 3))
    for kind, colour in enumerate(colours):
        part = "train" if kind < 10 else "test"
        for at in range(8):
            picture(root / part / f"animal{kind}" / f"{at}.png", colour, 100 * kind + at)
    return root


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "start"
    folder.mkdir()
    encoder = models.encoder("resnet10_w16", size=16, seed=3)
    export(folder, encoder.eval(), Preprocess.of(16), {"nearfar": "0", "source": "a test"})
    return folder


@pytest.fixture(scope="module")
def full(start, animals, tmp_path_factory) -> nearfar.finetuning.outcome.Finetuned:
    out = tmp_path_factory.mktemp("runs") / "full"
    return nearfar.finetune(
        start, train=animals / "train", test=animals / "test", out=out, task="reidentify", mode="full",
        lr=0.02, epochs=6, scratch=True, rerank=True, **WORDS,
    )  # fmt: skip


def test_a_training_has_its_rows_and_its_identities_on_one_side(full) -> None:
    assert full.images == {"train": 64, "held-out": 16, "test": 32}  # eight identities and two
    rows = full.figures["test"]
    assert list(rows) == [
        "fine-tuned", "frozen encoder", "from scratch", "encoder as it is", "untrained", "pixels",
    ]  # fmt: skip
    tuned = rows["fine-tuned"]
    assert {"map", "low", "high", "rank_1", "rank_5", "rank_10", "reranked_map"} <= {*tuned}
    assert tuned["map"] > 0.4  # 7 of 31 are right by chance
    assert set(full.per_class) == {"animal10", "animal11", "animal12", "animal13"}
    assert "--gallery known/" in str(full) and full.main == "map"


def test_a_batch_of_one_image_is_refused_with_a_flag_that_there_is(start, animals, tmp_path) -> None:
    how = {"train": animals / "train", "task": "reidentify", "mode": "full", "lr": 0.01, "epochs": 0.1}
    with pytest.raises(NearfarError, match="batch norm was given one image, .*; raise --batch-size, or"):
        nearfar.finetune(start, **how, out=tmp_path / "one", **{**WORDS, "batch_size": 1})


def test_nobody_is_measured_among_images_of_one_individual_alone(start, animals, tmp_path) -> None:
    """Every order of such a gallery is right: figures of it would be 100 %, and choices by it chance."""
    few = tmp_path / "few"
    few.mkdir()
    for number in range(5):
        for part in range(3):  # 24 images each, so that halves of held-out ones would be of one individual
            for picture_of in sorted((animals / "train" / f"animal{number}").iterdir()):
                other = few / f"animal{number}" / f"{part}{picture_of.name}"
                other.parent.mkdir(exist_ok=True)
                Image.open(picture_of).rotate(part).save(other)
    how = {"task": "reidentify", "mode": "linear", **WORDS}
    made = nearfar.finetune(start, train=few, out=tmp_path / "halves", holdout=0.4, **how)
    assert made.images == {"train": 72, "held-out": 48}  # both of the two individuals
    assert made.figures["held-out"]["pixels"]["chance"] < 0.9
    made = nearfar.finetune(start, train=few, out=tmp_path / "none", **how)
    assert [*made.figures] == ["training"] and "no images were held out" in str(made)
    shutil.copytree(few / "animal0", tmp_path / "one" / "animal0")
    with pytest.raises(NearfarError, match="shows one identity alone, animal0, so that nobody"):
        nearfar.finetune(start, train=few, test=tmp_path / "one", out=tmp_path / "x", **how)
    with pytest.raises(NearfarError, match="too few images to hold some out for a test"):
        nearfar.finetune(start, train=few, out=tmp_path / "y", share=0.5, **how)
    with pytest.raises(NearfarError, match="show one identity alone; training needs two"):
        nearfar.finetune(start, train=few, test=animals / "test", out=tmp_path / "z", share=0.1, **how)


def test_a_gallery_is_searched(full, animals, tmp_path) -> None:
    how = {"gallery": str(animals / "test"), "batch_size": 16, "workers": 1, "device": "cpu"}
    made = nearfar.predict(
        full.path, animals / "test", out=tmp_path / "m.csv", sheet=tmp_path / "s.png", top=2, **how
    )
    with open(tmp_path / "m.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert made.images == 32 and len(rows) == 64 and (tmp_path / "s.png").exists()
    first = [row for row in rows if row["rank"] == "1"]
    assert all(row["path"] == row["match"] and float(row["similarity"]) > 0.999 for row in first)
    assert all(row["path"].split("/")[0] == row["identity"] for row in first)
    second = [row["path"].split("/")[0] == row["identity"] for row in rows if row["rank"] == "2"]
    assert np.mean(second) == pytest.approx(full.figures["test"]["fine-tuned"]["rank_1"])
    with pytest.raises(NearfarError, match="--gallery FOLDER"):
        nearfar.predict(full.path, animals / "test", out=tmp_path / "x.csv")


def test_another_gallery_is_another_prediction(full, animals, tmp_path) -> None:
    task = Reidentification()
    settings = nearfar.finetuning.task_settings("reidentify", "Predicting")
    task.prepare(settings(gallery=str(animals / "test")))
    before = task.also_read()
    task.prepare(settings(gallery=str(animals / "train")))
    assert len(before) == 32 and task.also_read() != before


def test_queries_are_no_part_of_a_gallery(tmp_path) -> None:
    for name in ("query/rex/a.png", "gallery/rex/a.png", "gallery/tom/a.png"):
        picture(tmp_path / name, (90, 90, 90), 0)
    task = Reidentification()
    settings = nearfar.finetuning.task_settings("reidentify", "Predicting")
    notes = task.prepare(settings(gallery=str(tmp_path)))
    assert [*task.gallery.ids] == ["gallery/rex/a.png", "gallery/tom/a.png"]
    assert task.gallery.labels.identities == ("rex", "tom")
    assert notes == (f"1 query is left out of the gallery {tmp_path}",)
    listed = tmp_path / "l.csv"
    listed.write_text("path,identity,role\nquery/rex/a.png,rex,query\n")
    with pytest.raises(NearfarError, match="l.csv holds queries alone"):
        task.prepare(settings(gallery=str(listed)))


def test_a_linear_map_of_the_frozen_encoder(start, animals, tmp_path) -> None:
    made = nearfar.finetune(
        start, train=animals / "train", test=animals / "test", out=tmp_path / "l", task="reidentify",
        mode="linear", **WORDS,
    )  # fmt: skip
    assert made.chosen["shrinkage"] in (0.01, 0.03, 0.1, 0.3, 1.0)
    rows = made.figures["test"]
    assert list(rows) == ["fine-tuned", "encoder as it is", "untrained", "pixels"]
    card = json.loads((tmp_path / "l" / "task.json").read_text())
    assert card["card"]["neck"] == "whitening"
    (tmp_path / "g.csv").write_text("path,group\na,b\n")
    with pytest.raises(NearfarError, match="an identity is a group"):
        nearfar.finetune(
            start, train=animals / "train", out=tmp_path / "g", task="reidentify", groups=tmp_path / "g.csv"
        )

"""Runs on texts: resumed, kept, embedded, searched and measured."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from interrupted import pretrain_until
from small_texts import TINY, sentences

import nearfar
from nearfar.analysis.bm25 import BM25, together
from nearfar.core.errors import NearfarError
from nearfar.data import modalities as kinds
from nearfar.data.open import open_data
from nearfar.evaluation.similar_texts import RankCorrelation, SimilarTexts
from nearfar.stores import open_store
from nearfar.text import tokenizer
from nearfar.text.view_settings import TextPreprocess


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "texts"
    torch.set_num_threads(1)
    texts, _ = sentences(240)
    nearfar.pretrain(
        kinds.modality("text").open(texts), out=folder, **{**TINY, "steps": 40, "method": "simcse"}
    )
    return folder


@pytest.fixture(scope="module")
def store(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    address = tmp_path_factory.mktemp("stores") / "texts.nf"
    texts, names = sentences(60, seed=1)
    nearfar.embed(run, (texts, names), store=address, labels=True)
    return address


@pytest.mark.parametrize(
    "method", ["simcse", "multiple_negatives", "inverse_cloze", "mlm", "tsdae", "vicreg", "byol"]
)
def test_a_run_on_texts_resumes_to_the_same_bytes(method: str, tmp_path: Path) -> None:
    texts, _ = sentences(40)
    pairs = list(zip(texts, reversed(texts), strict=True))
    passages = [f"{one} {two}" for one, two in pairs]
    rows = {"multiple_negatives": pairs, "inverse_cloze": passages}.get(method, texts)
    source = kinds.modality("text").open(rows)
    settings = {**TINY, "method": method, "steps": 7, "batch_size": 8, "health_checks": 0, "recipe": "cpu"}
    settings["encoder"] = "text_w128_d2"
    nearfar.pretrain(source, out=tmp_path / "unbroken", **settings)

    pretrain_until(4, source, out=tmp_path / "broken", **settings)
    nearfar.pretrain(source, out=tmp_path / "broken", **settings)
    for name in ("encoder.safetensors", "encoder.json", "last.safetensors", "tokenizer.json"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()


def test_a_run_keeps_its_tokenizer_and_others_start_from_it(run: Path, tmp_path: Path) -> None:
    found = nearfar.load(run)
    assert found.preprocess == TextPreprocess(32, tokenizer.read(run / "tokenizer.json"))
    texts, _ = sentences(40, seed=5)
    texts = [text.upper() + " zebra" for text in texts]
    source = kinds.modality("text").open(texts)
    again = nearfar.pretrain(source, out=tmp_path / "next", **TINY, weights=str(run), method="simcse")
    assert again.preprocess.tokenizer == found.preprocess.tokenizer
    (tmp_path / "next" / "tokenizer.json").write_text(tokenizer.train(texts))
    with pytest.raises(NearfarError, match="not the tokenizer that the run was trained with"):
        nearfar.load(tmp_path / "next")


# Uses.


def test_texts_are_embedded_kept_and_searched(run: Path, store: Path, capsys) -> None:
    held = open_store(store)
    texts, names = sentences(60, seed=1)
    assert held.info.modality == "text" and held.columns["text"] == "text"
    assert held.rows(["id", "text"], ids=["7"]).to_pydict() == {"id": ["7"], "text": [texts[7]]}
    assert nearfar.load(run).encode(texts[0]).shape == (512,)
    found = nearfar.search(store, text="a ship in the harbour", limit=6)
    assert list(found.columns) == ["score", "similarity", "bm25", "label", "text"]
    assert set(found.columns["label"]) == {"sea"}
    assert list(found.columns["score"]) == sorted(found.columns["score"], reverse=True)
    only = nearfar.search(store, text="a ship", where="label = 'farm'", limit=3)
    assert set(only.columns["label"]) == {"farm"}
    assert nearfar.search(store, id="0", like=["a wave"], dislike=["a tram"], limit=3).columns["text"]
    with pytest.raises(NearfarError, match="is a file, and --like and --dislike take ids and texts"):
        nearfar.search(store, like=[str(run / "config.json")])
    assert nearfar.search(store, like=["long " * 2000], limit=1).ids  # longer than any name of a file
    with pytest.raises(NearfarError, match="holds text; search it with --text WORDS"):
        nearfar.search(store, image="a.png")
    assert held.thumbnails(["0"])[0][:2] == b"\xff\xd8"


def test_uses_work_on_a_store_of_texts(run: Path, tmp_path: Path) -> None:
    texts, names = sentences(45, seed=3)
    texts[30] = texts[12]
    store = tmp_path / "texts.nf"
    nearfar.embed(run, (texts, names), store=store, labels=True)
    copies = nearfar.duplicates(store)
    assert set(copies.ids) == {"12", "30"} and copies.columns["same"] == [False, True]
    assert all(copies.columns["confirmed"]) and copies.columns["text"] == [texts[12]] * 2
    said = "\n".join(copies.lines)
    assert "1 of 45 texts are copies, 1 of them word for word" in said and "keep the longest text" in said
    assert "runs of 3 words" in said and "pixels" not in said and "image" not in said
    other = tmp_path / "other.nf"
    nearfar.embed(run, [texts[12].upper() + "!", "The cow is not here."], store=other)
    leaks = nearfar.duplicates(store, against=other)
    assert set(leaks.ids) == {"12", "30"} and all(leaks.columns["same"])
    assert len(set(nearfar.clusters(store, n_clusters=3).columns["cluster"])) == 3
    assert len(nearfar.label_errors(store).ids) == 45
    assert len(nearfar.image_map(store).ids) == 45
    balanced = nearfar.curate(store, limit=12, out=tmp_path / "balanced.csv")
    assert balanced.columns["text"][0] == texts[int(balanced.ids[0])]
    assert sorted(open_data(f"{tmp_path}/balanced.csv:text").ids) == sorted(balanced.ids)
    (tmp_path / "names.txt").write_text("sea\nfarm\n")
    with pytest.raises(NearfarError, match="--names is for images, and .* holds text; give --examples"):
        nearfar.classes(store, names=tmp_path / "names.txt")
    for refused, what in (({"heat_maps": tmp_path / "heat"}, "heat maps"), ({"parts": True}, "parts")):
        with pytest.raises(NearfarError, match=f"holds text, and {what} are of images; leave --"):
            nearfar.anomalies(store, **refused)
    nearfar.store(store, export_file=tmp_path / "texts.csv")
    assert texts[0] in (tmp_path / "texts.csv").read_text(encoding="utf-8")


def test_what_is_for_images_refuses_texts_in_python(run: Path, tmp_path: Path) -> None:
    with pytest.raises(NearfarError, match="compares images, and .* is of text; embed in a store"):
        nearfar.DuplicateFinder(run).fit(["a ship", "a ship"])
    with pytest.raises(NearfarError, match="none can be used .*; if these are texts, pass modality='text'"):
        nearfar.pretrain(["a ship here", "a cow there"], out=tmp_path / "run", **TINY)
    with pytest.raises(NearfarError, match=r"none can be used .*; pass the list to nearfar\.check"):
        nearfar.pretrain(["ship.png", "cow.png"], out=tmp_path / "run", **TINY)


def test_bm25_is_its_formula_and_rare_words_win() -> None:
    texts = ["the cat sat on the mat", "the dog", "a cat and a dog and a cat", "THE, the; the!", ""]
    index, lengths = BM25(texts), [6, 2, 8, 3, 0]
    counts = [text.lower().replace(",", " ").replace(";", " ").replace("!", " ").split() for text in texts]
    for query in ("cat dog", "the cat cat", "zebra", ""):
        wanted = np.zeros(5)
        for word in query.split():
            n = sum(word in held for held in counts)
            for at, held in enumerate(counts):
                f = held.count(word)
                damp = 1.5 * (1 - 0.75 + 0.75 * lengths[at] / np.mean(lengths))
                wanted[at] += np.log(1 + (5 - n + 0.5) / (n + 0.5)) * f * 2.5 / (f + damp) if n else 0
        np.testing.assert_allclose(index.scores(query), wanted, rtol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert together(BM25([]).scores("x"), np.zeros(0, np.float32)).shape == (0,)
    dense = np.array([0.9, 0.1, 0.5], np.float32)
    assert together(dense, np.zeros(3, np.float32)).argmax() == 0


def test_agreement_with_people_stands_beside_tfidf(run: Path, tmp_path: Path) -> None:
    texts, names = sentences(64, seed=7)
    for part, first in (("dev", 0), ("test", 30)):
        rows = ["sentence1,sentence2,score"]
        for at in range(first, first + 30):
            rows.append(f'"{texts[at]}","{texts[at + 1 + 2 * (at % 2)]}",{3.0 if at % 2 else 1.0}')
        (tmp_path / f"{part}.csv").write_text("\n".join(rows))
    found = nearfar.sts(run, tmp_path / "test.csv", dev=tmp_path / "dev.csv")
    assert list(found.rows) == [
        "encoder",
        "untrained",
        "tfidf words",
        "tfidf characters",
        "tfidf sum",
        "encoder + tfidf",
    ]
    assert found.pairs == 30 and found.rows["encoder"].test > 0.6 and "encoder + tfidf" in str(found)
    assert json.dumps(found.to_json())
    row = found.rows["encoder"]
    assert row.low <= row.test <= row.high
    (tmp_path / "odd.csv").write_text("sentence1,sentence2,score\na,b,c\n")
    with pytest.raises(NearfarError, match="a score is no number"):
        nearfar.sts(run, tmp_path / "odd.csv")
    for score in ("nan", "inf"):
        (tmp_path / "odd.csv").write_text(f"sentence1,sentence2,score\na,b,1\nc,d,{score}\n")
        with pytest.raises(NearfarError, match=f"the score of pair 2 is {score}"):
            nearfar.sts(run, tmp_path / "odd.csv")
    for call, columns in (
        (nearfar.sts, "sentence1,sentence2,score"),
        (nearfar.passages, "question,passage,x"),
    ):
        (tmp_path / "odd.csv").write_text(f"{columns}\n?!,...,1\n!!,::,2\n")
        with pytest.raises(NearfarError, match="no word is in the"):
            call(run, tmp_path / "odd.csv")


def test_scores_as_excel_writes_them_are_read_and_those_that_say_nothing_refused(
    run: Path, tmp_path: Path
) -> None:
    texts, _ = sentences(24, seed=9)
    pairs = [(f'"{texts[at]}"', f'"{texts[at + 1]}"', at % 5) for at in range(20)]
    plain, excel = tmp_path / "plain.csv", tmp_path / "excel.csv"
    plain.write_text("sentence1,sentence2,score\n" + "\n".join(f"{a},{b},{c}.5" for a, b, c in pairs))
    rows = ["Sentence1;Sentence2;Score", *(f"{a};{b};{c},5" for a, b, c in pairs)]
    excel.write_text("\r\n".join(rows), encoding="utf-16")
    assert nearfar.sts(run, excel).rows == nearfar.sts(run, plain).rows
    for same in (pairs[:1], [(a, b, 3) for a, b, _ in pairs]):
        plain.write_text("sentence1,sentence2,score\n" + "\n".join(f"{a},{b},{c}" for a, b, c in same))
        others = "".join(f'"x{a[1:]},"y{b[1:]},3\n' for a, b, _ in same)
        (tmp_path / "dev.csv").write_text(f"sentence1,sentence2,score\n{others}")
        for given in ({"test": plain}, {"test": excel, "dev": tmp_path / "dev.csv"}):
            with pytest.raises(NearfarError, match="pairs? and one score, .*, so no order to agree with"):
                nearfar.sts(run, **given)
    plain.write_text("question,passage\n" + "\n".join(f"{a},the one passage" for a, _, _ in pairs))
    with pytest.raises(NearfarError, match="has one passage, which every question finds"):
        nearfar.passages(run, plain)
    assert nearfar.passages(run, plain, among=f"{excel}:sentence1,sentence2").passages > 2


def test_passages_are_found_by_vectors_words_and_their_sum(run: Path, tmp_path: Path) -> None:
    texts, _ = sentences(80, seed=8)
    rows = [f'"Where is the {text.split()[1]} of {text.split()[4]}?","{text}"' for text in texts]
    for part, some in (("q", rows[:40]), ("dev", rows[30:])):
        (tmp_path / f"{part}.csv").write_text("\n".join(["question,passage", *some]))
    found = nearfar.passages(run, tmp_path / "q.csv", dev=tmp_path / "dev.csv")
    assert list(found.rows) == ["encoder", "bm25", "tfidf", "sum"] and found.passages == 40
    assert found.rows["sum"].first >= found.rows["bm25"].first and found.chosen
    assert "McNemar" in str(found) and json.dumps(found.to_json())


def test_nothing_is_chosen_on_what_is_measured(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("nearfar.core.progress.say", said.append)
    texts, _ = sentences(40, seed=8)
    for call, columns, again in (
        (nearfar.passages, "question,passage,x", f'"{texts[3]}","another answer",1'),
        (nearfar.sts, "sentence1,sentence2,score", f'"{texts[4]}","{texts[3]}",1'),  # the other way round
    ):
        rows = [f'"{texts[at]}","{texts[at + 1]}",{at % 5}' for at in range(39)]
        for part, some in (("test", rows[:20]), ("dev", [*rows[20:], again.upper()])):
            (tmp_path / f"{part}.csv").write_text("\n".join([columns, *some]))
        test = tmp_path / "test.csv"
        call(run, test, dev=tmp_path / "dev.csv")
        assert "1 of 20" in said[-1] and "are in the test too: left out" in said[-1]
        with pytest.raises(NearfarError, match="has no .* but those of the test"):
            call(run, test, dev=test)


def test_every_passage_of_a_question_is_right_and_the_same_words_are_one_passage(
    run: Path, tmp_path: Path
) -> None:
    rows = ["Where is the ship?,the ship is in the harbour", "where is the SHIP?,The ship is at sea"]
    rows += ["Where is the tram?,the tram is in the street", "Which tram?,The tram is in the street!"]
    (tmp_path / "q.csv").write_text("\n".join(["question,passage", *rows]))
    found = nearfar.passages(run, tmp_path / "q.csv")
    assert (found.questions, found.passages) == (3, 3)
    assert found.rows["bm25"].first == found.rows["tfidf"].first == 1.0
    rows = [
        "港口在哪里,船在港口",
        "谷仓在哪里,牛在谷仓",
        "电车在哪里,电车在街道上",
    ]
    (tmp_path / "q.csv").write_text("\n".join(["question,passage", *rows]), encoding="utf-8")
    found = nearfar.passages(run, tmp_path / "q.csv")
    assert found.rows["bm25"].first == found.rows["tfidf"].first == 1.0


def test_tables_of_figures_leave_blanks_beside_long_names() -> None:
    row = RankCorrelation(0.5, 0.5, 0.4, 0.6, 0.3)
    table = str(SimilarTexts({"encoder": row, "encoder + tfidf": row}, 9, (0.1, 0.0, 0.2)))
    assert "encoder + tfidf (weight 0.3)  50.0" in table


def test_a_passage_that_shares_the_first_place_is_not_found_by_either_figure(
    run: Path, tmp_path: Path
) -> None:
    texts, _ = sentences(20, seed=8)
    rows = [f'"zzz{at}","{text}"' for at, text in enumerate(texts)]  # no such word is in any passage
    (tmp_path / "q.csv").write_text("\n".join(["question,passage", *rows]))
    found = nearfar.passages(run, tmp_path / "q.csv")
    assert found.rows["bm25"].first == 0.0 and found.gain.second_only == 0
    assert found.gain.difference == found.rows["sum"].first


def test_what_is_said_of_a_run_on_texts_says_texts(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nearfar.core import progress

    said: list[str] = []
    monkeypatch.setattr(progress, "say", said.append)
    texts, _ = sentences(40)
    source = kinds.modality("text").open([*texts, ""])
    nearfar.pretrain(source, out=tmp_path / "run", **{**TINY, "steps": 4, "batch_size": 64})
    told = "\n".join([*said, str(nearfar.check(source, **TINY).plan), str(nearfar.load(run).verdict())])
    assert "40 texts at 32 tokens" in told and "there are 40 texts, fewer than a batch" in told
    assert "1 unusable text is skipped" in told and "health on 32 training texts" in told
    assert "40 to train on, views of 32 tokens" in told and "texts/s" in told
    assert "image" not in told and " px" not in told


def test_a_wrong_encoder_is_refused_before_a_tokenizer_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    from small_pairs import drawn

    monkeypatch.setattr(tokenizer, "train", lambda texts: pytest.fail("a tokenizer was trained"))
    texts, _ = sentences(20)
    with pytest.raises(NearfarError, match="no encoder 'bag' of texts; did you mean bag_w512"):
        nearfar.pretrain(kinds.modality("text").open(texts), encoder="bag", **TINY)
    pairs = list(zip(*drawn(8), strict=True))
    with pytest.raises(NearfarError, match="no encoder 'bag' of texts; did you mean bag_w512"):
        nearfar.pretrain(pairs, method="siglip", text_encoder="bag", **TINY)

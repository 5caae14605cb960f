"""Conditions on rows of a store: what they mean, what is refused, and that none breaks out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers import server  # noqa: F401
from small_store import address, draw, filled, store, table  # noqa: F401

from nearfar.core.errors import NearfarError
from nearfar.stores import conditions
from nearfar.stores.set_aside import KeptImages

HOSTILE = [
    "it's",
    'say "hi"',
    "a\\b",
    "x'; drop table images; --",
    "é/日本 😀.jpg",
    ":v0",
    "%",
    "{1,NULL}",
    "NULL",
]


CONDITIONS = {
    "site = 'A'": lambda r: r["site"] == "A",
    "site <> 'A' and width >= 7": lambda r: r["site"] != "A" and r["width"] >= 7,
    "SITE": None,
    "width > 3.5 AND width<=5": lambda r: r["width"] in (4, 5),
    "score between 1 and 2": lambda r: r["score"] is not None and 1 <= r["score"] <= 2,
    "score is null or label is null": lambda r: r["score"] is None or r["label"] is None,
    "label is not null and not (label = 'cat')": lambda r: r["label"] == "dog",
    "label in ('cat', 'fox')": lambda r: r["label"] == "cat",
    "label not in ('cat')": lambda r: r["label"] == "dog",
    "good": lambda r: r["good"] is True,
    "not good": lambda r: r["good"] is False,
    "good = false or width = 1e1": lambda r: r["good"] is False or r["width"] == 10,
    "id like '0_.png'": lambda r: r["id"].startswith("0"),
    "id like '%1.p%' and id not like '0%'": lambda r: r["id"] == "11.png",
    "id like '0\\_%'": lambda r: False,
    "id > '03' and id < '05.png'": lambda r: r["id"] in ("03.png", "04.png"),
    "score < -.5 or width in (1, 2.5, +3)": lambda r: r["width"] in (1, 3),
}


@pytest.mark.parametrize("text", [text for text, test in CONDITIONS.items() if test])
def test_conditions_mean_what_they_say(filled, text):
    want = [row["id"] for row in filled.rows().to_pylist() if CONDITIONS[text](row)]
    assert filled.ids(text) == want
    assert filled.rows(["id"], where=text)["id"].to_pylist() == want
    assert filled.vectors(text)[0] == want
    assert filled.rows(["id"], where=text, ids=filled.ids()[::-1])["id"].to_pylist() == want[::-1]
    names, _ = filled.nearest(draw(1), 12, where=text)
    assert sorted(names[0]) == want


REFUSED = [
    *(
        "",
        " ",
        "and",
        "1=1",
        "label",
        "not label",
        "sit = 'A'",
        "site = A",
        "site = 3",
        'site = "A"',
        "good = 1",
    ),
    *(
        "site = 'A'; drop table x",
        "site = 'A' --",
        "site = 'A' /* x */",
        "site = 'A' union select 1",
        "select 1",
    ),
    *(
        "(site = 'A'",
        "site = 'A')",
        "site = 'A",
        "site in ()",
        "site between 'a'",
        "site = 'A' or",
        "site = $1",
    ),
    *(
        "width = '3'",
        "width like '3'",
        "width = 0x10",
        "width = 1e",
        "width > 1e400",
        "width > " + "1" * 5000,
        "width between -1e999 and 3",
        "width = NaN",
        "width + 1 > 2",
        "site = :v0",
    ),
    *(
        "vector is null",
        "_key = 1",
        "random() > 0",
        "pg_sleep(1)",
        "site = 'A' limit 1",
        "width = (select 1)",
    ),
    "(" * 80 + "good" + ")" * 80,
    "good or " * 20_000 + "good",
]


@pytest.mark.parametrize("text", REFUSED, ids=range(len(REFUSED)))
def test_nothing_but_a_condition_passes(filled, text):
    before = filled.version
    for call in (filled.ids, lambda w: filled.delete(where=w), lambda w: filled.nearest(draw(1), 1, where=w)):
        with pytest.raises(NearfarError) as refusal:
            call(text)
        assert "\n" not in str(refusal.value)
    assert filled.version == before and len(filled) == 12


def test_a_condition_names_the_columns_there_are(filled):
    with pytest.raises(NearfarError, match=r"'sit', did you mean site.*columns id, path.*site, score, good"):
        filled.ids("sit = 'A'")


@given(st.text(alphabet=st.sampled_from("ab'\"\\%;()=<>, -1.:$`\n")), st.text(max_size=30))
def test_no_text_breaks_out_of_a_value(value, tail):
    columns = {"a": "text", "b": "number"}
    condition = conditions.parse("a = '" + value.replace("'", "''") + "'", columns)
    assert condition == conditions.ColumnTest("a", "=", (value,))
    bound = []
    text = conditions.to_sql(condition, lambda name: f"<{name}>", lambda item: bound.append(item) or "?")
    assert text == "(<a> = ?)" and bound == [value]
    with pytest.raises(NearfarError, match="cannot be read: .*;"):
        conditions.parse("b = 1 ; " + tail, columns)


def test_a_value_that_is_set_is_no_number_means_none(filled):
    filled.update("score", {"00.png": float("nan")})
    filled.update_columns({name: dict.fromkeys(filled.ids(), float("nan")) for name in ("score", "new")})
    assert filled.ids("score > 0 or new > 0") == [] and len(filled.ids("score is null and new is null")) == 12


def test_only_a_condition_on_the_column_finds_what_is_set_aside(filled):
    filled.update("set_aside", {"00.png": True})
    filled.update("site", {"00.png": "all set_aside now", "01.png": "all set_aside now"})
    kept = KeptImages(filled)
    for text in ("site = 'all set_aside now'", "site like '%set_aside%'"):
        assert kept.ids(text) == ["01.png"]
    for text in ("not (site = 'B' or width > 0) and set_aside", '"set_aside" = true'):
        assert kept.ids(text) == ["00.png"]
    assert len(kept.ids("width >= 0 or set_aside")) == 12


def test_hostile_names_are_only_names(store):
    store.upsert(table(HOSTILE, label=HOSTILE, site=HOSTILE[::-1]))
    assert store.ids() == sorted(HOSTILE, key=lambda name: name.encode())
    for at, name in enumerate(HOSTILE):
        quoted = name.replace("'", "''")
        assert store.ids(f"id = '{quoted}'") == store.ids(f"label in ('{quoted}')") == [name]
        assert np.array_equal(store.vectors(ids=[name])[1], draw(len(HOSTILE))[at : at + 1])
    store.update("site", {name: name for name in HOSTILE})
    assert store.rows(["site"], ids=HOSTILE)["site"].to_pylist() == HOSTILE
    assert store.delete(ids=HOSTILE[:3]) == 3 and len(store) == len(HOSTILE) - 3

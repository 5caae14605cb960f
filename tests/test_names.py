"""Many names are held in one buffer, and read as a list's are."""

import os
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.data.dataset import fingerprint
from nearfar.data.folders import find
from nearfar.data.names import Names, taken
from nearfar.data.open import open_data
from nearfar.data.source import clean
from nearfar.data.subset import subset_of

TEXTS = ["a.jpg", "", "é/ü.png", "b" * 300, os.fsdecode(b"bad\xff.jpg"), "𝔸"]


def test_names_are_read_as_a_list_is():
    many = [f"{text}{number}" for number in range(3000) for text in TEXTS]  # several blocks
    names = Names.of(iter(many))
    assert len(names) == len(many) and list(names) == many == names and names != many[1:]
    assert names[-1] == many[-1] and names[7000:9000:3] == many[7000:9000:3] and many[4] in names
    with pytest.raises(IndexError):
        names[len(many)]
    rows = np.array([5, 0, 17_999])
    assert taken(names, rows) == taken(many, rows) == [many[row] for row in rows]
    assert Names.of([]) == [] and not Names.of([])
    assert not names.is_text() and Names.of(TEXTS[:4]).is_text()
    assert clean(names)[4] == "bad\\xff.jpg0" and clean(names) == clean(many)
    digests = np.zeros((3, 16), dtype=np.uint8)
    assert fingerprint(Names.of(TEXTS[:3]), digests) == fingerprint(TEXTS[:3], digests)


def test_a_long_list_is_never_as_many_strings(tmp_path):
    """Strings would be 107 bytes a path, and their list 8; the paths have 58."""
    count = 40_000
    paths = [f"collection/of/many/photographs/{row % 100:04d}/image-{row:012d}.jpg" for row in range(count)]
    (tmp_path / "list.txt").write_text("\n".join(paths))
    (tmp_path / paths[0]).parent.mkdir(parents=True)
    (tmp_path / paths[0]).touch()
    open_data(str(tmp_path / "list.txt"), expected="images")  # imports
    tracemalloc.start()
    try:
        source = open_data(str(tmp_path / "list.txt"), expected="images")
        some = subset_of(source, np.arange(count // 2))
        held, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert source.ids == paths and some.ids == paths[: count // 2]
    assert held < 95 * count and most < 150 * count


def test_a_folder_is_listed_in_the_order_of_whole_paths(tmp_path):
    for name in (
        "b/z.jpg",
        "b-c/a.jpg",
        "b.jpg",
        "a/x/y/1.png",
        "a/x-y.png",
        "a.txt",
        "a/.hidden.jpg",
        "é/1.jpg",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to(tmp_path / "a", target_is_directory=True)
    others: Counter[str] = Counter()
    found = find(tmp_path, others)
    assert isinstance(found, Names) and others == {".txt": 1}
    assert (
        found
        == sorted(found)
        == [
            "a/x-y.png",
            "a/x/y/1.png",
            "b-c/a.jpg",
            "b.jpg",
            "b/z.jpg",
            "é/1.jpg",
        ]
    )


@settings(deadline=None)
@given(st.lists(st.text(max_size=4), max_size=12), st.integers(0, 12), st.integers(0, 12), st.integers(1, 3))
def test_some_texts_are_read_together_and_odd_ones_found(texts, low, high, step):
    packed = Names.of(texts)
    assert packed[low:high:step] == texts[low:high:step]
    assert packed.first_with("\\") == next((text for text in texts if "\\" in text), None)
    assert packed.first_not_ascii() == next((text for text in texts if not text.isascii()), None)

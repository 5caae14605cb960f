"""Copies of texts: the same words, and words in common runs."""

from __future__ import annotations

import numpy as np

from nearfar.analysis.duplicates import duplicate_groups, duplicate_pairs
from nearfar.analysis.text_copies import Texts, TextThreshold
from nearfar.core.words import words_of


def test_copies_of_texts_are_found_by_their_words_and_others_are_not() -> None:
    draw = np.random.default_rng(0)
    words = [f"w{at}" for at in range(3000)]
    texts = [" ".join(draw.choice(words, draw.integers(30, 60))) for _ in range(300)]
    texts += [f"The patient of room {at} has a fever." for at in range(100)]  # one word differs
    count, planted = len(texts), []
    for at in range(0, 300, 3):
        kept = texts[at].split()
        changed = [*kept[:9], "another", *kept[10:]]
        planted += [texts[at].upper() + "!", "So: " + texts[at], " ".join(kept[:-3]), " ".join(changed)]
    held = Texts.of([*texts, *planted])
    found = duplicate_pairs(held, min_similarity=TextThreshold().min_similarity)
    right = {(at, count + 4 * (at // 3) + step) for at in range(0, 300, 3) for step in range(4)}
    pairs = set(zip(found.a.tolist(), found.b.tolist(), strict=True))
    assert right <= pairs
    origin = [*range(count), *(at for at in range(0, 300, 3) for _ in range(4))]
    assert all(origin[a] == origin[b] for a, b in pairs)
    same = {pair for pair, yes in zip(zip(found.a, found.b, strict=True), found.same, strict=True) if yes}
    assert same == {(at, count + 4 * (at // 3)) for at in range(0, 300, 3)}
    groups = duplicate_groups(held, [0] * len(held), TextThreshold().min_similarity)
    assert np.bincount(groups.group).tolist() == [5] * 100


def test_words_of_texts_in_any_script() -> None:
    assert words_of("Größe, GRÖSSE & co.") == ["grösse", "grösse", "co"]
    assert words_of("今日は天気") == list("今日は天気") and words_of("?!") == []
    assert words_of("my_name: 手机iPhone12手机") == ["my", "name", "手", "机", "iphone12", "手", "机"]
    assert words_of("हिन्दी की किताब") == ["हिन्दी", "की", "किताब"]  # vowel signs belong to their letters
    assert words_of("great 👍🏽, ❤\ufe0f!") == ["great", "👍", "🏽", "❤"]
    for one, other in (("की", "का"), ("great 👍", "great 👎"), ("السَّلام", "السُّلام")):
        assert len(set(Texts.of([one, other]).digests)) == 2, one
    held = Texts.of(
        ["", "!", "a", "A.", "今日は良い天気ですねと彼は言った", "今日は良い天気ですよと彼は言った"]
    )
    assert held.digests[2] == held.digests[3] != held.digests[1] != held.digests[0]
    x = held.similarity(held, np.array([2, 4, 0]), np.array([3, 5, 1]))
    assert x[0] == 1 and 0.5 < x[1] < 1 and x[2] == 0
    assert len(duplicate_pairs(Texts.of([]))) == 0 and len(duplicate_pairs(Texts.of(["a"]))) == 0

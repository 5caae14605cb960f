"""Splits texts into tokens: a byte-pair tokenizer that is trained on the texts, or that of a model's folder.

A tokenizer is known by the digest of its file, so that settings hold a short name of it. `register` makes one
known to this process; a run folder keeps the file as tokenizer.json.

Source:
    Sennrich, Haddow and Birch 2016, "Neural machine translation of rare words with subword units"; on bytes,
    Radford et al. 2019, "Language models are unsupervised multitask learners", section 2.2.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.errors import NearfarError

FILE = "tokenizer.json"
VOCABULARY = 8192  # tokens, at most
PAD, MASK = 0, 1  # tokens that no text holds: what fills rows up, and what stands for a hidden token
SAMPLE = 20 << 20  # characters of texts that a tokenizer is trained on, at most
TO_INSTALL = "pip install 'nearfar[text]'"
_LETTERS = 32  # characters to a token, from which on the rest of a text is not looked at
_MARKS = (".", "!", "?", "\u2026", "\u3002", "\uff01", "\uff1f")  # at the end of a sentence, Chinese ones too
_QUOTES = "\"')] \u201d\u2019\u00bb"  # what may follow them
_known: dict[str, tuple[str, Any]] = {}

Ids = npt.NDArray[np.int32]


def _library() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise NearfarError(f"texts need the package tokenizers; type: {TO_INSTALL}") from None
    return tokenizers


def train(texts: Iterable[str]) -> str:
    """Train a tokenizer: the same texts in the same order give the same one.

    Tokens are numbered by how often they occur in the texts, the most frequent first after `PAD` and `MASK`,
    so that an encoder can weigh them by their numbers.

    Args:
        texts: `SAMPLE` characters of them are looked at.

    Returns:
        Its file, for `register`.
    """
    library = _library()
    sample, room = list[str](), SAMPLE
    for text in texts:
        sample.append(text[:room])
        room -= len(text)
        if room <= 0:
            break
    made = library.Tokenizer(library.models.BPE())
    made.normalizer = library.normalizers.Sequence(
        [library.normalizers.NFKC(), library.normalizers.Lowercase()]
    )
    made.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=True)
    made.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=2,
        show_progress=False,
        special_tokens=["[PAD]", "[MASK]"],
        initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()),
    )
    made.train_from_iterator(sample, trainer)
    counts: Counter[int] = Counter()
    for text in sample:
        counts.update(made.encode(text).ids)
    plain = json.loads(made.to_str())
    words = plain["model"]["vocab"]
    order = sorted(words, key=lambda word: (words[word] > MASK, -counts[words[word]], words[word]))
    plain["model"]["vocab"] = {word: number for number, word in enumerate(order)}
    return json.dumps(plain, ensure_ascii=False, indent=1)


def choose(
    asked: Mapping[str, Any], folders: Sequence[Path], start: Any, texts: Callable[[], Iterable[str]]
) -> dict[str, Any]:
    """Find the tokenizer of a run: the start's, the resumed run's, as asked for, or a new one.

    Args:
        asked: explicit settings by name.
        folders: run folders whose files may hold it.
        start: settings of `prepare` of the encoder that training starts from; None for random weights.
        texts: gives the texts that a new one is trained on.

    Returns:
        The setting `tokenizer`, its digest.
    """
    from ..core import distributed, progress

    if start is not None:
        return {"tokenizer": start.tokenizer}
    own = next((folder / FILE for folder in folders if (folder / FILE).is_file()), None)
    if own is not None:
        return {"tokenizer": read(own)}
    if asked.get("tokenizer"):
        path = Path(str(asked["tokenizer"]))
        digest = read(path)
        if count(digest) > VOCABULARY:
            raise NearfarError(
                f"{path} has {count(digest):,} tokens, and networks of nearfar for texts {VOCABULARY:,} at "
                "most; give a smaller one, or leave --tokenizer out."
            )
        return {"tokenizer": digest}
    made = ""
    if distributed.first():
        progress.say("training a tokenizer on the texts")
        made = train(texts())
    return {"tokenizer": register(str(distributed.same(made)), "the tokenizer")}


def register(text: str, where: str) -> str:
    """Make a tokenizer known.

    Args:
        text: the content of its file.
        where: what errors call the file.

    Returns:
        Its digest, 32 hexadecimal digits.

    Raises:
        NearfarError: it is no tokenizer, or none that can be used.
    """
    digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    if digest not in _known:
        try:
            made = _library().Tokenizer.from_str(text)
        except NearfarError:
            raise
        except Exception as error:
            reason = (str(error).splitlines() or [""])[0][:200]
            raise NearfarError(f"{where} is no tokenizer ({reason}); give a tokenizer.json.") from None
        if made.token_to_id("[PAD]") != PAD:
            raise NearfarError(f"{where} has no token [PAD] with number {PAD}; give another tokenizer.json.")
        made.no_padding()
        made.no_truncation()
        _known[digest] = text, made
    return digest


def padded(text: str) -> str:
    """Change the file of a tokenizer so that token 0 is [PAD] and all others move on by one.

    Args:
        text: the content of a tokenizer.json; one that has [PAD] at 0 stays as it is.

    Raises:
        ValueError, LookupError, TypeError, AttributeError: it is no such file.
    """
    plain = json.loads(text)
    held, added = plain["model"]["vocab"], plain.get("added_tokens") or []
    first = held[0][0] if isinstance(held, list) else next((w for w, at in held.items() if at == PAD), "")
    if first == "[PAD]":
        return text
    if isinstance(held, list):  # of a unigram model, whose numbers are places
        plain["model"]["vocab"] = [["[PAD]", 0.0], *held]
        if plain["model"].get("unk_id") is not None:
            plain["model"]["unk_id"] += 1
    else:
        plain["model"]["vocab"] = {"[PAD]": PAD, **{word: at + 1 for word, at in held.items()}}
    for token in added:
        token["id"] += 1
    marks = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    plain["added_tokens"] = [{"id": PAD, "content": "[PAD]", **marks}, *added]
    plain["padding"] = plain["truncation"] = None
    _move(plain.get("post_processor"))
    return json.dumps(plain, ensure_ascii=False)


def _move(processor: Any) -> None:
    """Move on the numbers in what adds tokens at the ends of a text, in place."""
    if not isinstance(processor, dict):
        return
    for inner in processor.get("processors") or ():
        _move(inner)
    for name in ("cls", "sep"):
        if isinstance(processor.get(name), list):
            processor[name][1] += 1
    special = processor.get("special_tokens")
    for token in (special if isinstance(special, dict) else {}).values():
        token["ids"] = [at + 1 for at in token["ids"]]


def count(digest: str) -> int:
    """Count the tokens of a tokenizer, and numbers below the greatest that no token has.

    Args:
        digest: from `register`.
    """
    return 1 + max(_of(digest)[1].get_vocab(True).values())


def check_mask(digest: str) -> None:
    """Refuse a tokenizer whose token `MASK` is a word, for a method that hides others behind it.

    Args:
        digest: from `register`.

    Raises:
        NearfarError: it is none of those that are written as [MASK] or <mask>.
    """
    name = str(_of(digest)[1].id_to_token(MASK))
    if (name[:1], name[-1:]) not in (("[", "]"), ("<", ">")):
        raise NearfarError(
            f"token {MASK} of --tokenizer is {name!r}, and this method hides tokens behind it; give one "
            f"whose token {MASK} is [MASK], or leave --tokenizer out."
        )


@functools.cache
def sentence_marks(digest: str) -> npt.NDArray[np.bool_]:
    """Say of each token what it tells about sentences.

    Args:
        digest: from `register`.

    Returns:
        (3, tokens): whether it has a mark such as a full stop, also before quotes; whether it ends a line;
        whether a blank is before it, or all True where tokens do not say so.
    """
    made = _of(digest)[1]
    numbers = range(count(digest))
    texts = [made.decode([number], skip_special_tokens=False) for number in numbers]
    found = np.array(
        [[text.rstrip(_QUOTES).endswith(_MARKS), "\n" in text, text[:1].isspace()] for text in texts]
    ).T
    found[2] |= not found[2].any()
    return found


def read(path: Path) -> str:
    """Make the tokenizer of a file known, and give its digest; see `register`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise NearfarError(f"{path} cannot be read as a tokenizer: {error}; give a tokenizer.json.") from None
    return register(text, str(path))


def file_of(digest: str) -> str:
    """Give the content of a tokenizer's file.

    Args:
        digest: from `register`.

    Raises:
        NearfarError: this process does not know it.
    """
    return _of(digest)[0]


def encode(digest: str, text: str, size: int) -> Ids:
    """Split a text into tokens.

    Args:
        digest: of the tokenizer.
        text: any text.
        size: tokens, at most.

    Returns:
        (k,) int32, k from 0 to `size`; of a longer text the first tokens, and the last where the tokenizer
        ends every text with one of its own.
    """
    made = _of(digest)[1]
    ids = np.array(made.encode(text[: _LETTERS * size]).ids, np.int32)
    if len(ids) > size:
        blank = made.encode("").ids
        ends = len(blank) > 1 or blank == made.encode("a").ids[-1:]
        ids = np.append(ids[: size - 1], ids[-1]) if ends else ids[:size]
    return ids


def text_of(digest: str, ids: Ids) -> str:
    """Put tokens together to a text, as far as they say it.

    Args:
        digest: of the tokenizer.
        ids: (k,) tokens.
    """
    made: str = _of(digest)[1].decode(np.asarray(ids).tolist())
    return made


def texts_of(dataset: Any, digest: str) -> list[str]:
    """Put the tokens of a data set's texts together; of a longer text it has what an encoder reads.

    Args:
        dataset: of texts, each row split into tokens.
        digest: of the tokenizer.
    """
    rows = (dataset[row] for row in range(len(dataset)))
    return [" ".join(text_of(digest, ids) for ids in row) for row in rows]


def _of(digest: str) -> tuple[str, Any]:
    if digest not in _known:
        raise NearfarError(
            "these settings name a tokenizer that is not loaded; load the run that it belongs to first."
        )
    return _known[digest]

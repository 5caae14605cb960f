"""Texts as a kind of data: how they are split into tokens and drawn as views, their encoders and methods."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small import loops
from small_texts import TINY, sentences

import nearfar
from nearfar import methods
from nearfar.core.config import build
from nearfar.core.errors import NearfarError
from nearfar.data import modalities as kinds
from nearfar.data.batch import Batch
from nearfar.models.transformer import positions
from nearfar.text import networks, tokenizer, views
from nearfar.text.view_settings import TextViews

# Tokens and views.


def test_the_same_texts_give_the_same_tokenizer_in_every_process() -> None:
    texts, _ = sentences(60)
    made = tokenizer.train(texts)
    code = (
        "import sys, json; from nearfar.text import tokenizer\n"
        "print(tokenizer.register(tokenizer.train(json.load(sys.stdin)), ''))"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", code], input=json.dumps(texts), capture_output=True, text=True, check=True
        ).stdout.strip()
        for _ in range(2)
    ]
    assert said == 2 * [tokenizer.register(made, "")]
    held = json.loads(made)["model"]["vocab"]
    assert held["[PAD]"] == 0 and held["[MASK]"] == 1 and held["Ġthe"] < 8 < held["Ġtractor"]
    ids = tokenizer.encode(said[0], "The tractor é 漢字", 64)
    assert len(ids) > 4 and ids.min() > 1 and len(tokenizer.encode(said[0], "the " * 99, 7)) == 7
    with pytest.raises(NearfarError, match="not loaded"):
        tokenizer.encode("0" * 32, "x", 4)
    with pytest.raises(NearfarError, match="x is no tokenizer"):
        tokenizer.register("{}", "x")


def test_views_leave_tokens_out_by_name() -> None:
    draw = np.random.default_rng(0)
    texts = [draw.integers(2, 99, length).astype(np.int32) for length in (1, 5, 40)]
    block, ids = views.TextBlock([(text,) for text in texts]), np.array([7, 8, 9])
    kept = views.draw(TextViews(deletion=0.5), 3, ids, block)
    alone = views.draw(TextViews(deletion=0.5), 3, ids[2:], block.take(np.array([2])))
    assert np.array_equal(kept[2], alone[0]) and 8 < kept[2].sum() < 32 and kept[0].all()
    x = views.apply(block, kept, TextViews())
    assert x.shape == (3, 40) and x.dtype == torch.int64
    assert x[2, : kept[2].sum()].tolist() == texts[2][kept[2]].tolist() and not x[2, kept[2].sum() :].any()
    with pytest.raises(NearfarError, match="name as many columns"):
        views.draw(views.Which(TextViews(), 1), 0, ids, block)


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_networks_never_see_padding_and_weigh_rare_tokens_more(name: str) -> None:
    f = networks.encoder(name, size=16).eval()
    x = torch.randint(2, 500, (3, 9))
    x[1, 4:] = 0
    with torch.no_grad():
        assert torch.allclose(f(x)[1], f(x[1:2, :4])[0], atol=1e-5)
        assert f(x).shape == (3, f.dim) and (f.net.weight[2:-1] <= f.net.weight[3:]).all()


def words_of(path: Path, words: list[str]) -> Path:
    """Write a tokenizer that knows these words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token=words[-1]))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(path))
    return path


@pytest.mark.parametrize(
    ("words", "method", "error"),
    [
        (["[PAD]", "[MASK]", *map(str, range(8200))], "simclr", "8,202 tokens, and networks"),
        (["[PAD]", "the", "ship", "a"], "mlm", "token 1 of --tokenizer is 'the'"),
    ],
)
def test_a_tokenizer_that_an_encoder_or_a_method_cannot_use_is_refused(
    tmp_path: Path, words: list[str], method: str, error: str
) -> None:
    path, (texts, _) = words_of(tmp_path / "own.json", words), sentences(40)
    with pytest.raises(NearfarError, match=error):
        nearfar.pretrain(
            kinds.modality("text").open(texts),
            out=tmp_path / "run",
            **TINY,
            method=method,
            tokenizer=str(path),
        )


# Training.


def batch(count: int, texts: int, length: int = 9) -> Batch:
    generator = torch.Generator().manual_seed(0)
    x = [torch.randint(2, 300, (count, length + at), generator=generator) for at in range(texts)]
    x[0][0, 5:] = 0
    return Batch(x, torch.arange(count), key=5)


METHODS = {
    "simcse": {},
    "triples": {"triples": True},
    "multiple_negatives": {},
    "inverse_cloze": {},
    "mlm": {},
    "tsdae": {},
}


@pytest.mark.parametrize("case", METHODS)
def test_the_loss_is_the_loops_of_the_docstring_and_reaches_every_weight(case: str) -> None:
    name = "simcse" if case == "triples" else case
    config = build(methods.settings(name), METHODS[case])
    f = networks.encoder("text_w128_d2", size=16)
    module = methods.method(name)(f, config).double()
    for layer in f.net.blocks:  # which start as the identity, through which nothing flows back
        for part in (layer.out, layer.narrow):
            torch.nn.init.normal_(part.weight, std=0.1)
    made = batch(4, len(module.views(TextViews())))
    if name == "inverse_cloze":  # three sentences in each
        made.views[1] = 1 + (torch.arange(9) // 4).expand(4, 9)
        made.views[0][0, 5:] = 7
    if name == "multiple_negatives":  # a passage of two questions, which is no negative of either
        made.views[1][3] = made.views[1][1]
    if name == "tsdae":
        made.views[1] = made.views[1][:, :9]
    torch.manual_seed(0)
    found = module.embed(made)
    loss = module.loss(*found).total
    slow = loops(name)
    if name in ("mlm", "tsdae"):
        y, target = found
        truth = slow(y.detach(), target)
        known = (target >= 0).sum()
        assert (0 < known < 8 and target.shape[1] == 1) if name == "mlm" else known == 36
    elif name == "simcse":
        truth = slow(*found[:2], module.tau, *found[2:])
    else:
        truth = slow(*found, module.tau)
    torch.testing.assert_close(loss, truth, rtol=1e-9, atol=1e-9)
    loss.backward()
    for key, p in module.named_parameters():
        if p.requires_grad:
            assert p.grad is not None and p.grad.abs().max() > 0, key


def test_two_vectors_of_a_text_differ_on_held_out_texts_too_and_the_encoder_drops_nothing() -> None:
    f = networks.encoder("text_w128_d2", size=16)
    module, made = methods.method("simcse")(f, build(methods.settings("simcse"), {})).eval(), batch(8, 1)
    z_1, z_2 = module(made).watched.values()
    assert ((z_1 - z_2).norm(dim=1) > 0.01).all()
    assert torch.equal(*(module.encoder.plain().eval()(made.views[0]) for _ in range(2)))


def test_hidden_tokens_are_drawn_by_name_and_hidden_as_the_paper_has_it() -> None:
    module = methods.method("mlm")(networks.encoder("text_w128_d2"), build(methods.settings("mlm"), {}))
    x = torch.randint(2, 8000, (400, 40))
    made = Batch([x], torch.arange(400), key=3)
    new, places, target = module._hide(made, x, 8192)
    changed = new != x
    assert places.shape == (400, 6) and (target == x.take_along_dim(places, 1)).all()
    assert abs(changed.sum() / 2400 - 0.9) < 0.03 and abs((new == 1).sum() / 2400 - 0.8) < 0.03
    part = made.part(slice(7, 9))
    assert torch.equal(module._hide(part, part.views[0], 8192)[0], new[7:9])
    with pytest.raises(NearfarError, match="does not look at; choose"):
        methods.method("mlm")(networks.encoder("bag_w512"), build(methods.settings("mlm"), {}))


def test_a_sentence_is_taken_out_of_its_passage_and_stays_in_a_tenth() -> None:
    module = methods.method("inverse_cloze")(
        networks.encoder("bag_w512"), build(methods.settings("inverse_cloze"), {})
    )
    draw, count = np.random.default_rng(0), 600
    texts = [[draw.integers(2, 8000, 3 + draw.integers(5)) for _ in range(1 + at % 4)] for at in range(count)]
    x = views.rows([np.concatenate(text) for text in texts])
    numbers = views.rows([np.repeat(np.arange(len(text)) + 1, list(map(len, text))) for text in texts])
    seen: list[torch.Tensor] = []
    module.f.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    made = Batch([x, numbers], torch.arange(count), key=3)
    module.embed(made)
    module.embed(made.part(slice(9, 10)))
    taken, whole = [0, 0, 0, 0], 0
    for at, text in enumerate(texts):
        asks, rest = (y[at][y[at] != 0].tolist() for y in seen[:2])
        (one,) = [number for number, sentence in enumerate(text) if sentence.tolist() == asks]
        others = [token for number, sentence in enumerate(text) for token in sentence if number != one]
        all_of = np.concatenate(text).tolist()
        assert rest in (others, all_of) and (rest == all_of or len(text) > 1)
        whole += rest == all_of and len(text) > 1
        taken[one] += len(text) == 4
    assert abs(whole / 450 - 0.1) < 0.04 and min(taken) > 20
    for y, alone in zip(seen[:2], seen[2:], strict=True):
        assert alone[0].tolist() == y[9][y[9] != 0].tolist()


def test_sentences_are_counted_by_their_marks() -> None:
    texts = [
        'The cow is near the barn. Dr. No has 3.14 of them, and "is it a hen?" The hay is dry!',
        "One line of a text\nand the next one of it",
        "no mark is at the end of this",
    ]
    digest = tokenizer.register(tokenizer.train(texts * 3), "")
    ids = [tokenizer.encode(digest, text, 64) for text in texts]
    view, block = views.Sentences(TextViews(tokenizer=digest)), views.TextBlock([(one,) for one in ids])
    made = views.apply(block, views.draw(view, 0, np.arange(3), block), view)
    decode, found = tokenizer._of(digest)[1].decode, []
    for one, row in zip(ids, made.numpy(), strict=True):
        parts = [one[row[: len(one)] == number] for number in range(1, row.max() + 1)]
        found.append([decode(part.tolist()).strip() for part in parts])
    assert found[0] == [
        "the cow is near the barn.",
        'dr. no has 3.14 of them, and "is it a hen?"',
        "the hay is dry!",
    ]
    assert len(found[1]) == 2 and len(found[2]) == 1 and not made[2, len(ids[2]) :].any()


def test_a_decoder_sees_the_vector_and_what_is_before_a_place_alone() -> None:
    f = networks.encoder("text_w128_d2", size=16)
    module = methods.method("tsdae")(f, build(methods.settings("tsdae"), {"decoder_depth": 2})).eval()
    whole, left = torch.randint(2, 300, (3, 9)), torch.randint(2, 300, (3, 9))
    with torch.no_grad():
        y, target = module.embed(Batch([left, whole], torch.arange(3)))
        slow = slow_decoder(module, f.net.table, f(left), whole)
    assert torch.equal(target, whole)
    torch.testing.assert_close(y, slow, rtol=1e-4, atol=1e-4)


def slow_decoder(module: torch.nn.Module, table: torch.nn.Embedding, z: torch.Tensor, whole: torch.Tensor):
    """What the decoder writes, text by text and place by place: attention to one vector is a map of it."""
    from torch.nn.functional import gelu, layer_norm

    def norm(part: torch.nn.LayerNorm, x: torch.Tensor) -> torch.Tensor:
        return layer_norm(x, x.shape[-1:], part.weight, part.bias)

    found = torch.zeros(*whole.shape, table.num_embeddings)
    for i, text in enumerate(whole):
        x = torch.cat([torch.zeros(1, 128), table.weight[text[:-1]]]) + 0.1 * positions(1, len(text), 128)
        for layer in module.decoder:
            x, layer = x + layer.to_vector(z[i]), layer.to_tokens
            own = layer.self_attn
            q, k, v = (norm(layer.norm1, x) @ own.in_proj_weight.T + own.in_proj_bias).chunk(3, 1)
            y = torch.zeros_like(x)
            for t in range(len(text)):
                for head in range(4):
                    at = slice(32 * head, 32 * head + 32)
                    y[t, at] = torch.softmax(k[: t + 1, at] @ q[t, at] / 32**0.5, 0) @ v[: t + 1, at]
            x = x + own.out_proj(y)
            x = x + layer.linear2(gelu(layer.linear1(norm(layer.norm2, x))))
        found[i] = norm(module.norm, x) @ table.weight.T / 128**0.5 + module.bias
    return found

"""BEiT and its tokenizer, a discrete VAE: blocks against loops, words of hidden patches, and refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from small import given, pictures, small, tokenizer, total

from nearfar import models
from nearfar.core import rng
from nearfar.core.errors import NearfarError
from nearfar.methods import beit
from nearfar.methods.base import Batch
from nearfar.methods.dvae import DVAE, Config, Words, perplexity
from nearfar.training import optim
from nearfar.training.engine import autocast
from nearfar.training.settings import Training


def slow_blocks(batch: Batch, rows: int, columns: int, count: int) -> list[set[int]]:
    """Hidden patches of each image, patch by patch: algorithm 1 of BEiT."""
    key = rng.fold(batch.key, "blocks")
    least = min(count, max(1, round(rows * columns * 16 / 196)))
    found = []
    for row in batch.rows.tolist():
        u = [float(one) for one in rng.uniform(key, [row], 32)[0]]
        cut = rng.uniform(rng.fold(key, "cut"), [row], rows * columns)[0]
        hidden: list[int] = []
        while len(hidden) < count and u:
            size, aspect = least + max(0, count - len(hidden) - least) * u[0], 0.3 ** (2 * u[1] - 1)
            height = min(max(round(math.sqrt(size * aspect)), 1), rows)
            width = min(max(round(math.sqrt(size / aspect)), 1), columns)
            top, left = int(u[2] * (rows - height + 1)), int(u[3] * (columns - width + 1))
            block = {(top + r) * columns + left + c for r in range(height) for c in range(width)}
            hidden += sorted(block.difference(hidden), key=lambda place: cut[place])
            u = u[4:]
        rest = sorted(set(range(rows * columns)).difference(hidden), key=lambda place: cut[place])
        found.append(set((hidden + rest)[:count]))
    return found


@pytest.mark.parametrize(("rows", "columns"), [(8, 8), (14, 14), (3, 5)])
def test_beits_blocks_are_those_of_the_loops_and_hide_two_patches_of_five(rows: int, columns: int) -> None:
    batch = Batch([], torch.arange(40) * 3, None, 5)
    count = round(0.4 * rows * columns)
    at = beit.blocks(batch, rows, columns, count)
    assert at.shape == (40, count)
    assert [set(one) for one in at.tolist()] == slow_blocks(batch, rows, columns, count)
    assert torch.equal(beit.blocks(batch.part(slice(7, 9)), rows, columns, count), at[7:9])
    hidden = torch.zeros(40, rows * columns).scatter(1, at, 1.0).view(40, rows, columns)
    beside = (hidden[:, 1:] * hidden[:, :-1]).sum() / hidden[:, 1:].sum()
    assert beside > 0.55  # of single patches drawn by chance 0.4


def test_beit_names_hidden_patches_alone_by_the_words_of_a_tokenizer_that_stays_as_it_is() -> None:
    module = small("beit")
    batch = given(module, 6)
    (x,) = batch.views
    y, words = module.embed(batch)
    at = beit.blocks(batch, 4, 4, 6)
    assert y.shape == (6, 6, 16) and words.shape == at.shape == (6, 6) and words.unique().numel() > 2
    hidden = torch.zeros(6, 16).scatter(1, at, 1.0).view(6, 1, 4, 4)
    hidden = torch.nn.functional.interpolate(hidden, scale_factor=4, mode="nearest")
    other = module.embed(Batch([x * (1 - hidden) + (1 - x) * hidden], batch.rows))
    torch.testing.assert_close(other[0], y)  # what is hidden is not seen,
    assert not torch.equal(other[1], words)  # but by the tokenizer
    encoder, known = tokenizer().encoder, tokenizer().parts["words"]
    level = encoder.maps(x)[-1]
    for i, p in ((0, 0), (3, 2), (5, 5)):  # word by word
        r, c = divmod(int(at[i, p]), 4)
        fits = known["layer.weight"] @ level[i, :, r, c] + known["layer.bias"]
        assert int(fits.argmax()) == int(words[i, p])
    names = [*module.state_dict(), *(name for name, _ in module.named_parameters())]
    assert {name.split(".")[0] for name in names} == {"f", "g", "hide", "usage"}
    maker = optim.optimizer(Training(optimizer="adamw", lr=1e-2), module)
    for _ in range(3):
        total(module(batch)).backward()
        maker.step()
    assert torch.equal(module.embed(batch)[1], words)
    # Of the entropy of the words, all is told where each is named for certain, nothing by their frequencies.
    sure = 50.0 * torch.nn.functional.one_hot(words, 16)
    even = module.loss(torch.zeros(6, 6, 16), words).watched
    assert float(module.metrics(module.loss(sure, words).watched)["words_explained"]) == pytest.approx(1)
    assert float(module.metrics(even)["words_explained"]) == pytest.approx(0, abs=1e-6)


def test_beit_names_hidden_words_better_than_by_their_frequencies() -> None:
    """Each image has one colour, so that what is seen tells what is hidden."""
    module = small("beit")
    maker = optim.optimizer(Training(optimizer="muon", lr=0.02), module)
    draw = torch.Generator().manual_seed(0)

    def plain(step: int) -> Batch:
        x = torch.rand(16, 3, 1, 1, generator=draw).expand(-1, -1, 16, 16)
        return Batch([x], torch.arange(16), None, step)

    with torch.no_grad():  # how often each word is used
        words = torch.cat([module.embed(plain(step))[1].flatten() for step in range(40)])
    usage = torch.bincount(words, minlength=16) / len(words)
    module.usage.copy_(usage)
    for step in range(80):
        found = module(plain(step))
        maker.zero_grad()
        total(found).backward()
        maker.step()
    told = module.metrics(found.watched)
    assert float(perplexity(usage)) > 2
    assert told["words_named"] > usage.max() + 0.2 and told["words_explained"] > 0.3


def test_beit_reads_words_at_the_side_that_gives_each_patch_a_place() -> None:
    f, given_words = models.encoder("vit_w64_d2", size=16), tokenizer()
    given_words.encoder = models.encoder("resnet10_w16", size=64).eval()  # a place for 16 x 16 pixels
    given_words.parts["words"] = Words(128, 16).state_dict()
    module = beit.BEiT(f, beit.Config(), given_words)
    assert module.stride == 16 and module.words(torch.rand(2, 3, 16, 16), (4, 4)).shape == (2, 16)


def test_what_is_no_tokenizer_is_refused() -> None:
    f, given_words = models.encoder("vit_w64_d2", size=16), tokenizer()
    with pytest.raises(NearfarError, match="runs/a has no words for patches; train a tokenizer first"):
        beit.BEiT(f, beit.Config(teacher="runs/a"), type(given_words)(encoder=f, parts={}))
    given_words.parts["words"]["usage"] = torch.nn.functional.one_hot(torch.tensor(3), 16).float()
    with pytest.raises(NearfarError, match="uses 1 of its 16 words, too few to learn from"):
        beit.BEiT(f, beit.Config(), given_words)


def test_places_begin_with_words_of_their_own() -> None:
    """With torch's own start they share 7 to 10 of 64, and few more come in training."""
    torch.manual_seed(0)
    module = DVAE(models.encoder("resnet5_w64", size=16), Config(words=64))
    used = module(pictures(64, views=1)).watched["used"]
    assert float(perplexity(used)) > 24


def test_a_discrete_vae_gives_each_kind_of_patch_words_of_its_own() -> None:
    """Images of five colours, one a patch: nothing else can be told."""
    torch.manual_seed(0)
    colours = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0]])
    module = DVAE(models.encoder("resnet5_w64", size=16), Config(words=16))
    maker = optim.optimizer(Training(optimizer="adamw", lr=3e-3), module)
    generator = torch.Generator().manual_seed(1)
    for step in range(70):
        kinds = torch.randint(5, (16, 4, 4), generator=generator)
        x = torch.nn.functional.interpolate(colours[kinds].movedim(3, 1), scale_factor=4, mode="nearest")
        found = module(Batch([x], torch.arange(16), None, step))
        maker.zero_grad()
        total(found).backward()
        maker.step()
        module.after_step((step + 1) / 70, found.watched)
    assert module.metrics(found.watched)["variance_explained"].item() > 0.8
    words = module.words(module.eval().f.maps(x)[-1]).argmax(2).flatten()
    told = torch.stack(
        [torch.bincount(kinds.flatten()[words == word], minlength=5) for word in words.unique()]
    )
    assert told.max(1).values.sum() / told.sum() > 0.9  # a word is of one colour
    assert module.words.usage.sum().item() == pytest.approx(1, abs=1e-5)
    assert 4 < float(perplexity(module.words.usage)) <= 16
    assert float(perplexity(torch.full((8,), 1 / 8))) == pytest.approx(8)


def test_words_are_drawn_in_float32_whatever_the_precision_of_the_network() -> None:
    module, seen = small("dvae", words=64), []
    module.done.fill_(1.0)  # the lowest temperature, which makes much of a rounding
    module.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().float()))
    batch = given(module, 16)
    with autocast(torch.device("cpu"), "bfloat16"):
        _, _, s = module.embed(batch)
    u = rng.uniform(rng.fold(batch.key, "words"), batch.rows, s[0].numel())
    noise = torch.from_numpy(-np.log(-np.log(u))).view_as(s)
    drawn = ((s.detach().float() + noise) / module.config.word_temperature).softmax(2)
    codes = (drawn @ module.codes.detach()).transpose(1, 2).unflatten(2, seen[0].shape[2:])
    assert (seen[0] - codes).norm() < 0.003 * codes.norm()  # a rounding of the product alone


@pytest.mark.parametrize(("share", "hidden"), [(0.05, 1), (0.95, 3)])
def test_beit_hides_one_and_sees_one_of_four_patches(share: float, hidden: int) -> None:
    module = small("beit", masked=share)
    y, words = module.embed(given(module, 4, side=8))
    assert y.shape[:2] == words.shape == (4, hidden)
    with pytest.raises(NearfarError, match="views of 4 px are one patch, which leaves nothing to predict"):
        module(given(module, 4, side=4))

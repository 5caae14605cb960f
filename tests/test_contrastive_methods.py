"""What makes each contrastive method itself: queues, slow copies, pieces of a batch, neighbours, mining."""

import itertools
import math
from contextlib import nullcontext

import processes
import pytest
import torch
import torch.nn.functional as F
from small import pictures, rows, small, total

from nearfar import losses, methods, models, pretrain
from nearfar.core.config import build
from nearfar.core.errors import NearfarError
from nearfar.images.view_settings import Views
from nearfar.methods.moco import in_pieces
from nearfar.methods.mocov3 import patch_projection
from nearfar.models.queue import Queue
from nearfar.training import checkpoint, grad_cache
from nearfar.training.replicas import Replicas

NEW = ("moco", "mocov3", "nnclr", "supcon", "triplet", "drlim")


@pytest.mark.parametrize(("size", "pushes"), [(7, (3, 3, 3)), (6, (2, 4, 6, 1)), (4, (9, 2)), (1, (1, 3))])
def test_the_queue_is_a_list_that_forgets_the_oldest(size, pushes):
    queue = Queue(size, 5).double()
    torch.testing.assert_close(queue.rows.norm(dim=1), torch.ones(size).double(), rtol=0, atol=1e-6)
    slow = list(queue.rows.clone())
    for number, count in enumerate(pushes):
        new = rows(count, seed=number)
        queue.push(new)
        slow = [*slow, *new][-size:]
        place = int(queue.place)  # where the oldest is, when as many as it holds were pushed or fewer
        if count <= size:
            torch.testing.assert_close(queue.rows.roll(-place, 0), torch.stack(slow), rtol=0, atol=0)
        assert {tuple(row.tolist()) for row in queue.rows} == {tuple(row.tolist()) for row in slow}


def test_mocos_queue_and_slow_copy_against_lists():
    module = small("moco", queue=20, ema=0.9, bn_splits=1)
    fast = list(module.f_q.parameters())
    slow = [p.detach().clone() for p in module.f_k.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(slow, fast, strict=True))
    assert not any(p.requires_grad for p in module.f_k.parameters())
    keys = list(module.keys.clone())
    maker = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], 0.1)
    for step in range(4):
        batch = pictures(8, seed=step)
        maker.zero_grad()
        q, k = module.embed(batch)
        assert q.requires_grad and not k.requires_grad
        loss = module.loss(q, k)
        total(loss).backward()
        maker.step()
        # nothing moves before the step is done, and then by equation 2
        assert all(torch.equal(a, b) for a, b in zip(slow, module.f_k.parameters(), strict=True))
        module.after_step(step / 4, loss.watched)
        slow = [0.9 * a + 0.1 * b.detach() for a, b in zip(slow, fast, strict=True)]
        for a, b in zip(slow, module.f_k.parameters(), strict=True):
            torch.testing.assert_close(b, a)
            slow = [p.detach().clone() for p in module.f_k.parameters()]
        keys = [*keys, *k][-20:]
        torch.testing.assert_close(module.keys.roll(-int(module.queue.place), 0), torch.stack(keys))
    assert all(p.grad is None for p in module.f_k.parameters())


@pytest.mark.parametrize(
    ("n", "splits", "count"), [(64, 4, 4), (64, 8, 8), (40, 8, 5), (19, 2, 2), (8, 8, 1)]
)
def test_pieces_of_keys_are_made_up_differently_from_those_of_queries(n, splits, count):
    seen = []

    class Spy(torch.nn.Module):
        def forward(self, x):
            seen.append([int(i) for i in x[:, 0]])
            return x * 2

    x = torch.arange(n).float()[:, None].repeat(1, 3)
    parts = []
    for turn in (0, 1):
        seen.clear()
        torch.testing.assert_close(in_pieces(Spy(), x, splits, turn), 2 * x, rtol=0, atol=0)
        assert sorted(itertools.chain(*seen)) == list(range(n)) and len(seen) == count
        parts.append([set(piece) for piece in seen])
    for a, b in itertools.product(*parts):
        assert len(a) >= 8 and len(b) >= 8
        # a query's piece shares no more images with its key's piece than with any other
        if count > 1:
            assert abs(len(a & b) - n / count**2) < 2


def test_batch_norm_sees_a_piece_at_a_time():
    x = rows(32, 6).float() * 3 + 1
    net = torch.nn.BatchNorm1d(6)
    y = in_pieces(net, x, 4, turn=0)
    for p in range(4):
        piece = y[p::4]
        torch.testing.assert_close(piece.mean(0), torch.zeros(6), rtol=0, atol=1e-5)
        torch.testing.assert_close(piece.var(0, unbiased=False), torch.ones(6), rtol=1e-3, atol=1e-3)


def test_running_statistics_move_once_a_step_by_the_mean_of_the_pieces():
    x = rows(32, 6).float() * 3 + 1
    net = torch.nn.BatchNorm1d(6)
    in_pieces(net, x, 4, turn=0)
    torch.testing.assert_close(net.running_mean, 0.1 * x.mean(0))
    variance = torch.stack([x[p::4].var(0) for p in range(4)]).mean(0)
    torch.testing.assert_close(net.running_var, 0.9 + 0.1 * variance)
    assert int(net.num_batches_tracked) == 1
    before = net.running_mean.clone()
    in_pieces(net.eval(), x, 4, turn=0)
    torch.testing.assert_close(net.running_mean, before)


def test_mocov3_freezes_a_transformers_patches_and_nothing_else():
    pytest.importorskip("timm")
    with models.seeded(0, "vit"):
        config = build(methods.settings("mocov3"), {"head": [16, 8], "predictor": 16})
        f = models.encoder("vit_tiny_patch16_224", size=32)
        module = methods.method("mocov3")(f, config)
    frozen = {name for name, p in module.named_parameters() if not p.requires_grad and name[:4] != "f_k."}
    norms = {
        f"{part}.4.{name}" for part in ("g", "predict") for name in ("weight", "bias")
    }  # they stay 1 and 0
    patches = {"f.net.patch_embed.proj.weight", "f.net.patch_embed.proj.bias"}
    assert frozen == {"f.net.pos_embed"} | patches | norms
    places = f.net.pos_embed[0]
    assert (
        places[0].abs().max() == 0 and places[1].tolist() == [0.0] * 48 + [1.0] * 48 + [0.0] * 48 + [1.0] * 48
    )
    torch.testing.assert_close(places[2, 96], torch.tensor(1.0).sin())  # the column; the row is 0
    batch = pictures(4, side=32)
    before = f.net.patch_embed.proj.weight.clone()
    total(module(batch)).backward()
    torch.optim.AdamW(module.parameters(), 1e-2).step()
    module.after_step(0.5, {})
    assert torch.equal(f.net.patch_embed.proj.weight, before)
    assert f.net.blocks[0].attn.qkv.weight.grad.abs().max() > 0
    assert torch.equal(module.f_k[0].net.patch_embed.proj.weight, before)
    assert patch_projection(models.encoder("resnet10_w16")) is None


def test_mocov3_averages_its_slow_copy_ever_more_slowly_and_blurs_unlike():
    module = small("mocov3", ema=0.5)
    slow = [p.clone() for p in module.f_k.parameters()]
    with torch.no_grad():
        for p in module.f.parameters():
            p.add_(1.0)
    module.after_step(1.0, {})
    assert all(torch.equal(a, b) for a, b in zip(slow, module.f_k.parameters(), strict=True))
    module.after_step(0.0, {})
    for a, b in zip(slow, module.f_k[0].parameters(), strict=False):
        torch.testing.assert_close(b, a + 0.5)
    one, two = module.views(Views(blur=0.5))
    assert one.blur > two.blur and one.solarize < two.solarize
    assert module.views(Views()) == (Views(), Views())


def test_nnclr_finds_the_nearest_of_the_queue_and_pushes_the_first_views():
    module = small("nnclr").double()
    z = rows(150, 16)
    found = module.queue.nearest(z)
    for row, friend in zip(z, found, strict=True):
        best = max(module.queue.rows, key=lambda other, row=row: float(row @ other))
        assert torch.equal(best, friend)
    batch = pictures(8)
    batch.views[:] = [view.double() for view in batch.views]
    found = module(batch)
    z_1 = module.embed(batch)[0]
    total(found).backward()
    module.after_step(0.5, found.watched)
    assert torch.equal(module.queue.rows[:8], z_1) and int(module.queue.place) == 8


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("simclr", {}),
        ("simclr", {"decoupled": True}),
        ("moco", {}),
        ("mocov3", {}),
        ("nnclr", {}),
        ("csi", {}),
        ("cola", {}),
    ],
)
def test_rows_that_are_all_alike_count_what_each_is_pushed_from(name, settings):
    """Where no row differs, the loss is the logarithm of how many a row is compared with."""
    module = small(name, **settings).double()
    batch = pictures(5)
    batch.views[:] = [view.double() for view in batch.views]
    alike = [F.normalize(torch.ones_like(z), dim=-1) for z in module.embed(batch)]
    if name == "moco":
        module.keys.copy_(F.normalize(torch.ones_like(module.keys), dim=1))
    loss = float(next(iter(module.loss(*alike).terms.values())))
    if name == "mocov3":
        loss /= 4 * module.tau  # both ways, and times 2 tau
    own = 0 if settings else 1
    assert loss == pytest.approx(math.log(module.negatives(5) + own), rel=1e-6)


def test_supcon_is_nt_xent_where_each_image_is_its_own_class():
    module = small("supcon").double()
    z_i, z_j = rows(6), rows(6, seed=1)
    loss = module.loss((z_i, z_j), torch.arange(6) * 3 + 1).total
    torch.testing.assert_close(loss, losses.nt_xent(z_i, z_j, module.tau), rtol=1e-13, atol=0)
    three = module.loss((z_i, z_j, rows(6, seed=2)), torch.arange(6) % 2).total
    whole = torch.cat([z_i, z_j, rows(6, seed=2)])
    torch.testing.assert_close(three, losses.supcon(whole, (torch.arange(6) % 2).repeat(3), module.tau))


def test_simclr_decouples():
    batch = pictures(6)
    module = small("simclr", decoupled=True, temperature=0.3)
    z_i, z_j = module.embed(batch)
    terms = module.loss(z_i, z_j).terms
    torch.testing.assert_close(terms["dcl"], losses.dcl(z_i, z_j, 0.3))
    assert list(terms) == ["dcl"] and list(small("simclr")(batch).terms) == ["nt_xent"]


def test_key_accuracy_asks_keys_alone():
    q, k = rows(40), F.normalize(rows(40) + 0.6 * rows(40, seed=1), dim=1)
    hits = [max(range(40), key=lambda j, i=i: float(q[i] @ k[j])) == i for i in range(40)]
    assert 0 < sum(hits) < 40
    assert losses.key_accuracy(q, k).item() == pytest.approx(sum(hits) / 40)
    assert losses.key_accuracy(q, q).item() == 1.0
    names = torch.arange(40) // 4  # four equal keys each, of which none is a better one
    equal = k[::4].repeat_interleave(4, dim=0)
    hits = [
        all(q[i] @ equal[i] >= q[i] @ equal[j] for j in range(40) if names[i] != names[j]) for i in range(40)
    ]
    assert losses.key_accuracy(q, equal, names).item() == pytest.approx(sum(hits) / 40)
    assert losses.key_accuracy(q, equal).item() < sum(hits) / 40


@pytest.mark.parametrize("name", NEW)
def test_chunks_give_the_gradient_of_the_whole(name):
    """With the batch norms at rest, whose statistics a chunk would take of itself."""
    module = small(name).double()
    for part in module.modules():
        if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
            part.track_running_stats, part.training = True, False
    batch = pictures(7)
    batch.views[:] = [view.double() for view in batch.views]
    total(module(batch)).backward()
    wanted = {key: p.grad.clone() for key, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    terms = grad_cache.backward(Replicas(module, 1), batch, 3, nullcontext)
    torch.testing.assert_close(total(terms), total(module(batch)).detach())
    assert wanted.keys() == {key for key, p in module.named_parameters() if p.grad is not None}
    for key, p in module.named_parameters():
        if key in wanted:
            torch.testing.assert_close(p.grad, wanted[key], rtol=1e-9, atol=1e-12, msg=key)


@pytest.mark.parametrize("name", ["moco", "mocov3", "nnclr"])
def test_a_save_holds_all_that_the_next_steps_need(name):
    def steps(module, maker, numbers):
        for step in numbers:
            maker.zero_grad()
            found = module(pictures(8, seed=step))
            total(found).backward()
            maker.step()
            module.after_step(step / 6, found.watched)

    whole = small(name, queue=20) if name != "mocov3" else small(name)
    maker = torch.optim.AdamW([p for p in whole.parameters() if p.requires_grad], 1e-2)
    steps(whole, maker, range(3))
    tensors, numbers = checkpoint.state_of(whole, maker)
    tensors = {key: value.clone() for key, value in tensors.items()}
    steps(whole, maker, range(3, 6))
    with models.seeded(5, "others"):
        again = type(whole)(models.encoder("resnet10_w16", seed=9), whole.config)
    other = torch.optim.AdamW([p for p in again.parameters() if p.requires_grad], 1e-2)
    checkpoint.restore(again, other, tensors, numbers)
    steps(again, other, range(3, 6))
    for (key, a), b in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), key


def test_labels_are_read_only_where_they_make_the_pairs(labelled, photos, tmp_path):
    tiny = {"steps": 2, "batch_size": 16, "encoder": "resnet10_w16", "head": (16, 8), "precision": "float32"}
    tiny |= {"workers": 1, "cache": False}
    run = pretrain(labelled / "train", out=tmp_path / "a", method="triplet", pairs="labels", **tiny)
    assert "contrastive_accuracy" not in run.log()[-1]
    pretrain(labelled / "train", out=tmp_path / "b", like=tmp_path / "a")
    same = [(tmp_path / run / "encoder.safetensors").read_bytes() for run in "ab"]
    assert same[0] == same[1]
    run = pretrain(photos, out=tmp_path / "c", method="triplet", **tiny)
    assert "contrastive_accuracy" in run.log()[-1]
    with pytest.raises(NearfarError, match="96 files outside any class folder"):
        pretrain(photos, out=tmp_path / "d", method="triplet", pairs="labels", **tiny)


def test_two_processes_keep_one_queue_and_give_the_steps_of_one():
    one, two = processes.one("queues"), processes.two("queues")
    assert one.keys() == two[0].keys()
    for key, value in one.items():
        torch.testing.assert_close(two[0][key], value, rtol=0, atol=1e-12, msg=key)
        assert torch.equal(two[0][key], two[1][key]), key

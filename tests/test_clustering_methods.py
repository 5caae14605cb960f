"""What makes SwAV and DINO themselves: even codes, a centred and sharpened teacher, small views."""

from __future__ import annotations

import pytest
import torch

from nearfar import methods, models
from nearfar.core.config import build
from nearfar.images.view_settings import Views
from nearfar.images.views import View
from nearfar.losses import unit
from nearfar.methods import dino, swav
from nearfar.methods.base import Batch, Method
from nearfar.training import engine
from nearfar.training.schedule import StepPlan


def small(name: str, **values: object) -> Method:
    with models.seeded(0, name):
        return methods.method(name)(models.encoder("resnet10_w16"), build(methods.settings(name), values))


def batch(n: int = 8, local: int = 0) -> Batch:
    draw = torch.Generator().manual_seed(0)
    views = [torch.rand(n, 3, 32, 32, generator=draw) for _ in range(2)]
    return Batch([*views, *(torch.rand(n, 3, 14, 14, generator=draw) for _ in range(local))], torch.arange(n))


def test_codes_use_every_prototype_as_much_and_every_row_once() -> None:
    scores = torch.randn(60, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    q = swav.codes(scores, 0.5, 200)
    torch.testing.assert_close(q.sum(1), torch.ones(60).double())
    torch.testing.assert_close(q.sum(0), torch.full((7,), 60 / 7).double())
    # a code is the scores' softmax but for one factor a prototype
    factor = (q / (scores / 0.5).softmax(1)).log()
    relative = factor - factor[:, :1]
    torch.testing.assert_close(relative, relative[:1].expand_as(relative))


def test_codes_are_even_where_the_scores_all_prefer_one_prototype() -> None:
    scores = torch.zeros(32, 4)
    scores[:, 0] = 1.0
    torch.testing.assert_close(swav.codes(scores, 0.05, 3), torch.full((32, 4), 0.25))


@pytest.mark.parametrize("epsilon", [0.05, 0.02, 0.006, 0.003])
def test_every_view_has_codes_however_sharp_they_are(epsilon: float) -> None:
    generator = torch.Generator().manual_seed(0)
    z, prototypes = (unit(torch.randn(count, 32, generator=generator)) for count in (64, 16))
    prototypes[:8] = z[:8]  # some rows lie on prototypes, and others near none
    scores = z @ prototypes.T
    q = swav.codes(scores, epsilon, 3)
    assert q.dtype == torch.float32
    torch.testing.assert_close(q.sum(1), torch.ones(64))
    already = swav.codes(scores / epsilon, 1.0, 3, narrow=epsilon < swav.NARROW)
    torch.testing.assert_close(already, q, rtol=1e-3, atol=1e-5)


def test_no_gradient_flows_through_codes_and_prototypes_keep_length_one() -> None:
    module = small("swav", prototypes=16, head=[32, 8])
    scores, z = module.embed(batch())
    scores = [x.detach().requires_grad_() for x in scores]
    total = module.loss(scores, z).total
    grad = torch.autograd.grad(total, scores)[0]
    q = swav.codes(scores[1], 0.05, 3)  # view 0 predicts view 1's codes
    wanted = ((scores[0] / 0.1).softmax(1) - q) / 0.1 / len(q) / 2
    torch.testing.assert_close(grad, wanted)
    with torch.no_grad():
        module.prototypes.mul_(3)
    module.after_step(0.1, {})
    torch.testing.assert_close(module.prototypes.norm(dim=1), torch.ones(16))


class Feed(list[Batch]):
    """Batches, as a data loader gives them."""

    waited = 0.0


@pytest.mark.parametrize("name", ["swav", "dino"])
def test_what_is_frozen_stays_whatever_the_optimizer_until_its_share_of_the_training(name: str) -> None:
    module = small(name, prototypes=16, freeze_last_layer=0.5)
    last = module.prototypes if name == "swav" else module.g.last
    seen = [last.detach().clone()]
    optimizer = torch.optim.AdamW(module.parameters(), 1e-3, weight_decay=0.5)
    steps = engine.train(
        module,
        Feed([batch() for _ in range(4)]),
        optimizer,
        plan=StepPlan(((0, 4),)),
        lr=1e-3,
        warmup=0.0,
        device=torch.device("cpu"),
    )
    seen += [last.detach().clone() for _ in steps]
    torch.testing.assert_close(seen[2], seen[0], rtol=1e-6, atol=1e-7)
    assert not torch.allclose(seen[3], seen[2], rtol=1e-6, atol=1e-7)
    assert optimizer.state[last]["step"] == 2  # what was frozen has no moments of it


def test_dinos_last_layer_begins_as_a_linear_layer_does() -> None:
    module = small("dino", prototypes=512, head=[32, 64])
    assert float(module.g.last.detach().norm(dim=1).mean()) == pytest.approx(3**-0.5, rel=0.05)
    assert module.g.last.abs().max() <= 64**-0.5


def test_dino_keeps_the_teacher() -> None:
    module = small("dino", prototypes=16)
    assert module.encoder is module.slow_f
    swav_module = small("swav")
    assert swav_module.encoder is swav_module.f
    assert [small(name).exports for name in ("byol", "moco", "mocov3")] == ["f", "f", "f"]


def test_all_views_share_one_batch_norm_of_swavs_head() -> None:
    module = small("swav", prototypes=16, head=[32, 8])
    views = batch(local=2).views
    _, z = module.embed(Batch(views, torch.arange(8)))
    with torch.no_grad():
        h = torch.cat([module.f(torch.cat(some)) for some in (views[:2], views[2:])])
    torch.testing.assert_close(torch.cat(z), unit(module.g(h)))


def test_swavs_codes_are_computed_over_the_queue_too_once_it_is_full() -> None:
    module = small("swav", prototypes=16, head=[32, 8], queue=12, queue_start=0.3)
    scores, z = module.embed(batch())
    watched = module.loss(scores, z).watched
    module.after_step(0.2, watched)
    assert int(module.queued) == 0  # too early
    module.after_step(0.4, watched)
    assert int(module.queued) == 8
    torch.testing.assert_close(module._codes(scores[0], 0), swav.codes(scores[0], 0.05, 3))  # not full yet
    module.after_step(0.5, watched)
    assert int(module.queued) == 12
    torch.testing.assert_close(module.queue[1, :8], z[1].detach())
    earlier = module.queue[0] @ module.prototypes.detach().T
    whole = swav.codes(torch.cat([scores[0], earlier]), 0.05, 3)
    torch.testing.assert_close(module._codes(scores[0], 0), whole[:8])


@pytest.mark.parametrize("name", ["swav", "dino"])
def test_small_views_are_predicted_too_and_made_smaller(name: str) -> None:
    module = small(name, prototypes=16, local_crops=3)
    made = module.views(Views())
    assert len(made) == 5 and [view.side(224) for view in made if isinstance(view, View)] == [96] * 3
    seen = [views.requires_grad_() for views in batch(local=3).views]
    module(Batch(seen, torch.arange(8))).total.backward()
    assert all(views.grad.abs().max() > 0 for views in seen[2:])
    assert len(small(name).views(Views())) == 2


def test_dinos_centre_follows_the_teachers_mean_answer() -> None:
    module = small("dino", prototypes=16, centre=0.75)
    module(batch())
    _, answers = module.embed(batch())
    before = module.centre.clone()
    module.after_step(0.2, module.loss(*module.embed(batch())).watched)
    mean = torch.cat(answers).mean(0)
    torch.testing.assert_close(module.centre, 0.75 * before + 0.25 * mean, rtol=1e-4, atol=1e-5)


def test_dinos_teacher_sharpens_less_as_it_warms_and_gets_no_gradient() -> None:
    module = small(
        "dino",
        prototypes=16,
        teacher_temperature_start=0.02,
        teacher_temperature=0.1,
        teacher_temperature_warmup=0.5,
    )
    x = [torch.randn(4, 16, generator=torch.Generator().manual_seed(k), requires_grad=True) for k in range(4)]
    losses = []
    for done, tau in ((0.0, 0.02), (0.25, 0.06), (0.5, 0.1), (0.9, 0.1)):
        module.done.fill_(done)
        found = module.loss(x[:2], x[2:]).total
        target = [(y / tau).softmax(1) for y in x[2:]]
        wanted = -sum(
            (t * (s / 0.1).log_softmax(1)).sum(1).mean() for t, s in zip(target, x[1::-1], strict=True)
        )
        torch.testing.assert_close(found, wanted / 2)
        losses.append(found)
    grads = torch.autograd.grad(losses[0], x, allow_unused=True)
    assert grads[0] is not None and grads[2] is None and grads[3] is None
    assert not any(p.requires_grad for p in (*module.slow_f.parameters(), *module.slow_g.parameters()))


def test_dino_runs_on_a_vision_transformer_with_small_views() -> None:
    f = models.encoder("vit_tiny_patch16_224", size=64)
    module = dino.DINO(f, dino.Config(prototypes=16, head=(32, 8), local_crops=1))
    views = [torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64), torch.rand(2, 3, 32, 32)]
    total = module(Batch(views, torch.arange(2))).total
    total.backward()
    assert torch.isfinite(total)

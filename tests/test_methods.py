"""What every entry of METHODS must do; to register a method is to have it tested.

That a run resumes bit for bit, and that its encoder loads without the method's code, is tested with the
run folder, in test_pretrain.py.
"""

import dataclasses
import inspect
import subprocess
import sys

import processes
import pytest
import torch
from small import IMAGE_METHODS, given, loops, pictures, small, total

from nearfar import methods
from nearfar.core.config import build, settings_of, to_json
from nearfar.core.errors import NearfarError
from nearfar.data.batch import leaves, tree_map
from nearfar.images.view_settings import Views
from nearfar.losses.statistics import spread
from nearfar.methods.base import Batch
from nearfar.training import optim
from nearfar.training.engine import autocast
from nearfar.training.settings import Training

every = pytest.mark.parametrize("name", IMAGE_METHODS)


@every
def test_settings_build_from_defaults_and_round_trip(name):
    config = build(methods.settings(name), {})
    assert build(methods.settings(name), to_json(config)) == config
    assert to_json(config) == to_json(type(small(name).config)())
    for item in settings_of(methods.settings(name)):
        assert item.help and item.source, item.name


@every
def test_a_file_holds_what_its_paper_needs(name):
    module = sys.modules[methods.method(name).__module__]
    text = module.__doc__
    assert "Shapes:" in text and "arXiv" in text and "\n\nChoose it when " in text
    assert len(text.splitlines()[0]) <= 110 and text.splitlines()[0].endswith(".")
    assert methods.method(name).__doc__


SWITCHED_ON = [
    ("deep_infomax", {"estimator": "jsd", "global_": 0.5}),
    ("dvae", {"kl": 0.003}),
    ("ibot", {"koleo": 0.1}),
    ("ijepa", {"standardised": False}),
    ("npid", {"bank_negatives": 4}),
    ("pirl", {"bank_negatives": 4}),
]
"""Terms and forms that the defaults leave out."""


@pytest.mark.parametrize(("name", "own"), [*((name, {}) for name in IMAGE_METHODS), *SWITCHED_ON])
def test_the_loss_and_its_gradient_are_the_loops_of_the_docstring(name, own):
    module = small(name, **own).double()
    batch = given(module, 5)
    batch.views[:] = [view.double() for view in batch.views]
    if batch.targets is not None:
        batch = dataclasses.replace(batch, targets=batch.targets.double())
    module.after_step(1.0, module(batch).watched)  # queues and centres now hold something
    z = tree_map(lambda z: z.detach().requires_grad_(z.is_floating_point()), module.embed(batch))
    learnt = [z for z in leaves(z) if z.requires_grad]
    slow = loops(name)
    # what the loops take is what `loss` takes, and then settings of the method by name
    needed = [
        key for key, item in inspect.signature(module.loss).parameters.items() if item.default is item.empty
    ]
    taken = dict(zip(needed, z, strict=True))
    names = list(inspect.signature(slow).parameters)
    settings = {key: getattr(module, key, getattr(module.config, key, None)) for key in names}
    truth = slow(**{key: taken.get(key, settings[key]) for key in names})
    loss = total(module.loss(*z))
    torch.testing.assert_close(loss, truth, rtol=1e-12, atol=1e-12)
    grads = torch.autograd.grad(loss, learnt, allow_unused=True)
    wanted = torch.autograd.grad(truth, learnt, allow_unused=True)
    assert any(grad is not None for grad in grads)
    for grad, right in zip(grads, wanted, strict=True):
        if grad is not None:  # the method stops it there, which loops cannot say
            torch.testing.assert_close(grad, right, rtol=1e-9, atol=1e-12)


@every
def test_terms_are_finite_scalars_and_reach_every_parameter(name):
    module = small(name)
    # a zero last gamma blocks the gradient of what stands before it; training soon moves it
    for key, p in module.named_parameters():
        if key.endswith("bn2.weight"):
            torch.nn.init.constant_(p, 0.5)
    batch = given(module, 8)
    terms, watched = found = module(batch)
    assert terms and all(term.dim() == 0 and torch.isfinite(term) for term in terms.values())
    total(found).backward()
    for key, p in module.named_parameters():
        if p.requires_grad:
            assert p.grad is not None and p.grad.abs().max() > 0, key
    module.after_step(0.5, watched)
    assert all(torch.isfinite(value).all() for value in module.metrics(watched).values())
    assert len(module.views(Views())) == len(batch.views)


def told(found):
    """The loss; of a game between two sides, whose sum tells nothing, the discriminator's."""
    return found.terms.get("discriminator", total(found))


@torch.no_grad()
def known(module, batch):
    """How much larger the loss is where views or labels are mixed up; with one view, for other pictures."""
    if "labels" in module.requires(module.config):
        wrong = Batch(batch.views, batch.rows, batch.rows // 3)
    elif len(batch.views) == 1:
        wrong = given(module, len(batch), seed=1)
    else:
        wrong = Batch([batch.views[0], *(view.roll(1, 0) for view in batch.views[1:])], batch.rows)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    gap = told(module(wrong)) - told(module(batch))
    module.load_state_dict(before)
    return gap.item()


@every
def test_overfits_eight_pictures_and_keeps_a_spread(name):
    # Slow copies that can follow within 60 or 80 steps, and a decoder that can.
    quick = {"ema": 0.9, "prototypes": 64, "decoder_width": 32, "predictor_width": 32, "predictor_depth": 2}
    own = {item.name for item in settings_of(methods.settings(name))}
    module = small(name, **{key: value for key, value in quick.items() if key in own})
    maker = optim.optimizer(Training(optimizer="adamw", lr=2e-3), module)
    batch = given(module, 8)
    with torch.no_grad():  # tokens of a transformer have much in common from the start
        least = 0.5 * spread(module.f(torch.cat(batch.views))) if "tokens" in module.needs else 0.2
    first, steps = None, 80 if "tokens" in module.needs else 60
    for step in range(steps):
        found = module(batch)
        loss = told(found)
        maker.zero_grad()
        total(found).backward()
        maker.step()
        module.after_step(step / steps, found.watched)
        first = loss.item() if first is None else first
    # These eight are known, whatever else moved the loss: it may even rise, as MoCo's does while its queue
    # fills with these eight, and DINO's while its teacher moves.
    # The loss of one side of a game goes up and down, so that its value at the end is no bar.
    left = 0.1 if "discriminator" in found.terms else 0.5 * abs(loss.item())
    assert known(module, batch) > max(0.4 * (first - loss.item()), left)
    with torch.no_grad():
        assert spread(module.f(torch.cat(batch.views))) > least  # near 0 would be collapse


@every
def test_the_same_batch_twice_gives_the_same_bits(name):
    losses = []
    for _ in range(2):
        torch.manual_seed(len(losses))
        module = small(name)
        loss = total(module(given(module, 8)))
        loss.backward()
        losses.append([loss, *(p.grad for p in module.parameters() if p.grad is not None)])
    assert all(torch.equal(a, b) for a, b in zip(*losses, strict=True))


@every
def test_forward_is_loss_of_embed(name):
    module = small(name)
    batch = given(module, 8)
    whole = module(batch)
    halves = module.loss(*module.embed(batch))
    assert whole.terms.keys() == halves.terms.keys() and whole.watched.keys() == halves.watched.keys()
    torch.testing.assert_close(total(whole), total(halves))


ROUNDED = [(name, {}) for name in IMAGE_METHODS]
ROUNDED += [("ibot", {"koleo": 0.1}), ("ibot", {"centring": "sinkhorn"}), ("swav", {"queue": 16})]


@pytest.mark.parametrize(("name", "own"), ROUNDED)
def test_the_loss_is_float32_whatever_the_precision_of_the_network(name, own):
    """Of the same values, as bfloat16 and as float32; only the gradient is rounded, where it goes back."""
    module, device = small(name, **own), torch.device("cpu")
    with autocast(device, "bfloat16"):
        batch = given(module, 16)
        module.after_step(0.5, module(batch).watched)  # queues and centres now hold something
        found = module.embed(batch)

    def loss(precision, widened):
        z = tree_map(lambda z: z.float() if widened and z.is_floating_point() else z.clone(), found)
        learnt = [z.requires_grad_() for z in leaves(z) if z.is_floating_point()]
        with autocast(device, precision):
            whole = total(module.loss(*z))
        return whole, torch.autograd.grad(whole, learnt, allow_unused=True)

    found = tree_map(torch.Tensor.detach, found)
    exact, slopes = loss("float32", True)
    for precision in ("float32", "bfloat16"):
        mine, rounded = loss(precision, False)
        torch.testing.assert_close(mine, exact, rtol=2e-6, atol=1e-7)
        for a, b in zip(rounded, slopes, strict=True):
            assert b is None or (a.float() - b).norm() <= 0.004 * b.norm()


several = pytest.mark.parametrize(
    "processes_of", [processes.two, pytest.param(processes.four, marks=pytest.mark.long)]
)


@several
def test_processes_give_the_gradient_of_one(processes_of):
    one, many = processes.one("gradients"), processes_of("gradients")
    assert one.keys() == many[0].keys() and len(one) > len(IMAGE_METHODS)
    for key, value in one.items():
        if ".term." in key:
            mean = sum(found[key] for found in many) / len(many)
            torch.testing.assert_close(mean, value, rtol=0, atol=1e-12)
        else:
            torch.testing.assert_close(many[0][key], value, rtol=0, atol=1e-12, msg=key)
            assert all(torch.equal(other[key], many[0][key]) for other in many)


@several
def test_processes_that_share_weights_learn_as_one(processes_of):
    """Gradients of the first step; then what a save holds. Muon's steps are rounded to bfloat16."""
    one, many = (
        [{key: x for key, x in found.items() if not key.startswith("bfloat16.")} for found in some]
        for some in ([processes.one("sharded")], processes_of("sharded"))
    )
    (one,) = one
    assert one.keys() == many[0].keys()
    first = [key for key in one if ".1.grad." in key]
    assert len({key.partition(".")[0] for key in first}) == len(processes.SHARDED)
    for key in one:
        if key.startswith("mae.") and key not in first:
            continue
        near = {"rtol": 0, "atol": 1e-12} if key in first else {"rtol": 1e-6, "atol": 1e-8}
        torch.testing.assert_close(many[0][key], one[key], **near, msg=key)
        if key in first:
            assert all(torch.equal(other[key], many[0][key]) for other in many)


def test_processes_that_share_weights_learn_in_bfloat16_as_one_and_save_float32():
    one, (first, _) = processes.one("sharded"), processes.two("sharded")
    losses = [key for key in first if key.startswith("bfloat16.loss.")]
    assert len(losses) == 4
    torch.testing.assert_close(first[losses[0]], one[losses[0]], rtol=1e-3, atol=0)
    for key in losses:  # batch norm of few images makes much of a rounding, on some processors more
        torch.testing.assert_close(first[key], one[key], rtol=0.03, atol=0)
    name = len("bfloat16.")
    saved = {key[name:]: x for key, x in first.items() if key[:name] == "bfloat16." and key not in losses}
    weights = saved["method.f.net.blocks.0.mlp.0.weight"]
    assert weights.dtype == torch.float32
    assert (weights != weights.bfloat16().float()).float().mean() > 0.9, "rounded weights lose small steps"
    # One process goes on from it, and learns what it would from its own save.
    own = {key: one[f"bfloat16.{key}"] for key in saved}
    after, wanted = processes.halved(saved), processes.halved(own)
    for key in losses:
        assert after[key] < first[key]
        torch.testing.assert_close(after[key], wanted[key], rtol=0.06, atol=0)


def test_simclr_takes_a_deeper_head_and_any_temperature():
    module = small("simclr", head=[32, 16, 8], temperature=0.1)
    assert [p.out_features for p in module.g if isinstance(p, torch.nn.Linear)] == [32, 16, 8]
    z_i, _ = module.embed(pictures(4))
    torch.testing.assert_close(z_i.norm(dim=1), torch.ones(4))
    with pytest.raises(NearfarError, match="--temperature"):
        small("simclr", temperature=0.0)


def test_an_unknown_method_is_answered_with_the_nearest():
    for find in (methods.method, methods.settings):
        with pytest.raises(NearfarError, match="simclr"):
            find("simclar")


def test_settings_are_read_without_torch():
    code = "import sys, nearfar.methods as m; m.settings('simclr'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

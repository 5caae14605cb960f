"""What processes that talk over gloo find together, beside what one finds.

`one(name)` runs a function below in this process; `two(name)` gives what each of two processes returned,
and `four(name)` each of four. They have torchrun's environment, and each writes a safetensors file.
"""

from __future__ import annotations

import functools
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import forkserver
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from nearfar.methods.base import Batch, Method

HERE = Path(__file__).parent


@functools.cache
def one(name: str) -> dict[str, Tensor]:
    """Run a function here, once."""
    return {key: x.detach() for key, x in FUNCTIONS[name]().items()}


@functools.cache
def two(name: str) -> list[dict[str, Tensor]]:
    """Give what the function returned on rank 0 and on rank 1."""
    return _launched(2, name)


def four(name: str) -> list[dict[str, Tensor]]:
    """Give what the function returned on each of four ranks."""
    return _launched(4, name)


def _launched(world: int, name: str) -> list[dict[str, Tensor]]:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        started = []
        for rank in range(world):
            env = os.environ | {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(world),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "PYTHONPATH": str(HERE),
            }
            started.append(forkserver.start("import processes; processes.work()", folder, name, env=env))
        try:
            errors = [process.communicate(timeout=300)[1] for process in started]
        finally:
            for process in started:
                process.kill()
        assert all(process.returncode == 0 for process in started), "\n".join(errors)
        return [safetensors.torch.load_file(Path(folder, str(rank))) for rank in range(world)]


def work() -> None:
    """Run the function that is named on the command line in one of the processes."""
    from nearfar.core import distributed

    distributed.start("cpu")
    torch.set_num_threads(1)
    folder, name = sys.argv[1:]
    answer = {key: x.clone().contiguous() for key, x in one(name).items()}
    safetensors.torch.save_file(answer, Path(folder, str(distributed.rank())))
    distributed.stop()


def share(x: Tensor) -> Tensor:
    """This process's rows of a tensor that all made alike."""
    from nearfar.core import distributed

    return x.chunk(distributed.world())[distributed.rank()].clone()


def words() -> dict[str, Tensor]:
    """What each function of `parallel` gives."""
    from nearfar.core import collectives, distributed
    from nearfar.core.errors import NearfarError
    from nearfar.losses import logsumexp
    from nearfar.training.plan import fit_batch
    from nearfar.training.resolve import resolve

    rank = distributed.rank()
    distributed.barrier()
    x = torch.full((2, 3), rank + 1.0, dtype=torch.float64, requires_grad=True)
    weights = torch.arange(2 * distributed.world() * 3, dtype=torch.float64).view(-1, 3) * (rank + 1)
    gathered = collectives.gather(x)
    (gathered * weights).sum().backward()
    parts = list(collectives.blocks(x))
    assert torch.equal(torch.cat(parts), gathered) and not parts[rank].requires_grad
    y = torch.full((2,), rank + 1.0, dtype=torch.float64, requires_grad=True)
    summed = collectives.total(y)
    (summed.square() * (rank + 1)).sum().backward()
    told = distributed.same({"rank": rank, "text": "é" * (rank + 1), "pair": (1, None)})
    assert told == {"rank": 0, "text": "é", "pair": [1, None]}
    assert distributed.first() == (rank == 0)
    waited = torch.tensor(0)
    with distributed.first_goes_ahead("counts"):
        waited = torch.tensor(distributed._store.add("counted", 1))  # 1 on rank 0, whoever is quicker
    try:
        with distributed.first_goes_ahead("fails"):
            raise ValueError("on rank 0")
    except (ValueError, NearfarError) as error:
        failed = {0: "on rank 0", 1: "process 0, which fails, ended with an error; see its output."}
        assert str(error) == failed[rank]
    assert not collectives.gather(x, grad=False).requires_grad
    # Each measures for itself what is faster; where they differ, they choose alike.
    logsumexp._fused_is_faster = lambda device, count, d: rank > 0 or d == 2
    faster = [logsumexp._fused_wins(torch.device("cpu"), 8, d, distributed.world()) for d in (1, 2)]
    assert faster == [False, True]
    # Chunks are of the global batch, as the batch is: each process has its share of both.
    asked = {"batch_size": 64, "micro_batch": 32}
    config = resolve("simclr", "cpu", asked, side=32, device=torch.device("cpu"))
    assert fit_batch(config, 100)[0].training.micro_batch == 32
    # Every fourth image of a process is every fourth of all.
    asked = {"batch_size": 60, "keep_colour": True}
    config = resolve("simclr", "cpu", asked, side=32, device=torch.device("cpu"))
    assert fit_batch(config, 100)[0].training.batch_size == 60 - 60 % (4 * distributed.world())
    return {"gathered": gathered, "x_grad": x.grad, "summed": summed, "y_grad": y.grad, "waited": waited}


def losses() -> dict[str, Tensor]:
    """Every contrastive loss, its value and gradients, on a part of one global batch."""
    from nearfar import losses
    from nearfar.core import distributed
    from nearfar.methods import prediction

    torch.manual_seed(0)
    z = [F.normalize(torch.randn(12, 5, dtype=torch.float64), dim=1) for _ in range(2)]
    queue = F.normalize(torch.randn(7, 5, dtype=torch.float64), dim=1)
    labels = share(torch.tensor([3, 5, 3, 3, 5, 9, 3, 5, 1, 1, 4, 5]))
    found = {}
    for name, compute in {
        "nt_xent": losses.nt_xent,
        "dcl": losses.dcl,
        "supcon": lambda a, b, tau: losses.supcon(torch.cat([a, b]), torch.cat([labels, labels + 10]), tau),
        "info_nce": lambda a, b, tau: losses.info_nce(a, b, None, tau),
        "queue": lambda a, b, tau: losses.info_nce(a, b, queue, tau),
        "clip": lambda a, b, tau: losses.clip(a, b, 1 / tau),
        "clip_equal": lambda a, b, tau: losses.clip(a, b, 1 / tau, labels),
        "siglip": lambda a, b, tau: losses.siglip(a, b, 1 / tau, -1 / tau),
        "siglip_equal": lambda a, b, tau: losses.siglip(a, b, 1 / tau, -1 / tau, labels),
    }.items():
        for tau in (0.3, 0.02):
            z_i, z_j = (share(part).requires_grad_() for part in z)
            t = torch.tensor(tau, dtype=torch.float64, requires_grad=True)
            loss = compute(z_i, z_j, t)
            loss.backward()
            found |= {f"{name} {tau} loss": loss, f"{name} {tau} dtau": t.grad}
            found |= {f"{name} {tau} z_i": z_i.grad / distributed.world()}
            found |= {f"{name} {tau} z_j": z_j.grad / distributed.world()}
    for negatives in ("all", "own", "others"):
        q, z_t = (share(part.view(12, 5, 1).repeat(1, 1, 3)).requires_grad_() for part in z)
        loss, right = prediction.tell(q[:, :4], z_t, torch.tensor([1, 2, 3, 4]), negatives)
        loss.backward()
        found |= {f"tell {negatives}": loss, f"tell {negatives} right": right}
        found |= {
            f"tell {negatives} q": q.grad / distributed.world(),
            f"tell {negatives} z": z_t.grad / distributed.world(),
        }
    z_i, z_j = (share(part) for part in z)
    for tile in (512, 5):  # of which the second cuts across the rows of the processes
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(losses.tiled, "side", lambda z, tile=tile: tile)
            found[f"accuracy {tile}"] = losses.contrastive_accuracy(z_i, z_j)
            found[f"key accuracy {tile}"] = losses.key_accuracy(z_i, z_j, labels)
    return found


def batchnorm() -> dict[str, Tensor]:
    """Batch norm over processes: values, gradients and running statistics."""
    from nearfar import models

    torch.manual_seed(0)
    x = 100 + torch.randn(8, 4, 3, 3, dtype=torch.float64)
    module = torch.nn.Sequential(torch.nn.BatchNorm2d(4), torch.nn.Conv2d(4, 6, 1), torch.nn.BatchNorm2d(6))
    module = models.sync_batchnorm(module.double())
    mine = share(x).requires_grad_()
    y = module(mine)
    (y.sin() * share(torch.randn(8, 6, 3, 3, dtype=torch.float64))).sum().backward()
    module.eval()
    state = {f"state.{name}": value for name, value in module.state_dict().items()}
    return {"y": y, "grad": mine.grad, "eval": module(mine)} | state


def other_kinds() -> Iterator[tuple[str, Method, Batch]]:
    """Methods for sound and texts, and a batch; without dropout, which no two processes draw alike."""
    from nearfar import methods
    from nearfar.core.config import build
    from nearfar.data.modalities import modality
    from nearfar.methods.base import Batch

    torch.manual_seed(1)
    clips, ids = torch.rand(8, 1, 16, 32).double(), torch.randint(2, 300, (8, 12))
    ids[::3, 7:] = 0
    numbers = (1 + torch.arange(12) // 5).expand(8, 12) * (ids != 0)
    views = {"byol_a": [clips], "cola": [clips, clips.flip(3)], "cpc": [clips]}
    views |= {"mlm": [ids], "tsdae": [ids * (ids % 3 > 0), ids], "inverse_cloze": [ids, numbers]}
    own = {"byol_a": {"head": [16, 8], "predictor": 16}, "cpc": {"width": 8, "first": 2, "predicted": 2}}
    for name, made in views.items():
        kind = methods.kind(name) or "sound"
        f = modality(kind).encoder("text_w128_d2" if kind == "text" else "mel_cnn_w32", size=32)
        module = methods.method(name)(f, build(methods.settings(name), own.get(name, {}))).double()
        without_dropout(module)
        if name == "byol_a":
            module.memory.push(share(clips.flip(2)))
        rows = torch.arange(8)
        yield name, module, Batch([share(view) for view in made], share(rows), key=4)


def with_captions() -> Iterator[tuple[str, Method, Batch]]:
    """Methods for images with captions, and a batch: two captions are equal, rows end with the longest."""
    from nearfar import methods, models
    from nearfar.core.config import build
    from nearfar.methods.base import Batch
    from nearfar.text import networks

    torch.manual_seed(2)
    images, ids = torch.rand(8, 3, 32, 32).double(), torch.randint(2, 300, (8, 9))
    ids[:4, 6:], ids[5] = 0, ids[2]
    own = share(ids)
    rows = torch.arange(8)
    for name in (name for name in methods.METHODS if methods.kind(name) == "pairs"):
        with models.seeded(0, name):
            f, text = models.encoder("resnet10_w16", size=32), networks.encoder("text_w128_d2")
            module = methods.method(name)(f, build(methods.settings(name), {"width": 16}), text=text).double()
        without_dropout(module)
        views = [share(images), own[:, : int((own != 0).sum(1).max())]]
        yield name, module, Batch(views, share(rows), key=4)


def without_dropout(module: Method) -> None:
    """Switch off what no two processes draw alike."""
    for part in module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
        if isinstance(part, torch.nn.MultiheadAttention):
            part.dropout = 0.0


def gradients() -> dict[str, Tensor]:
    """The gradient of each method on one global batch, as the loop computes it: with batch norm over all
    processes, and averaged."""
    from small import IMAGE_METHODS, given, small

    from nearfar.methods.base import Batch
    from nearfar.training.parallel import parallelise

    found, cases = {}, []
    for name, own in [*((name, {}) for name in IMAGE_METHODS), *OTHER_FORMS]:
        module = small(name, **own).double()
        torch.manual_seed(1)
        views = [torch.rand(8, 3, 16, 16).double() for _ in given(module, 1).views]
        rows = torch.arange(8)
        batch = Batch([share(view) for view in views], share(rows), share(rows % 3))
        if "targets" in module.requires(module.config):
            batch = replace(batch, targets=share(torch.rand(8, module.memory.rows.shape[1]).double()))
        cases.append((" ".join([name, *own]), module, batch))
    for name, module, batch in [*cases, *other_kinds(), *with_captions()]:
        whole = parallelise(module)
        loss = whole(batch)
        loss.total.backward()
        found |= {f"{name}.{key}": p.grad for key, p in module.named_parameters() if p.requires_grad}
        found |= {f"{name}.term.{key}": value for key, value in loss.terms.items()}
    return found


OTHER_FORMS: tuple[tuple[str, dict[str, object]], ...] = (
    ("deep_infomax", {"estimator": "jsd", "global_": 0.5}),
    ("dvae", {"kl": 0.003}),
    ("ibot", {"koleo": 0.1, "centring": "sinkhorn"}),
    ("ijepa", {"standardised": False}),
    ("pirl", {"bank_negatives": 4}),
)
"""Terms and forms that the defaults leave out and that look at all processes' rows."""


def sharded() -> dict[str, Tensor]:
    """Two steps of methods whose blocks' weights the processes share; in one process plain."""
    from small import given, small

    from nearfar import models
    from nearfar.core import distributed
    from nearfar.core.sharded import is_sharded, local, whole
    from nearfar.data.batch import Batch
    from nearfar.training import checkpoint, engine, optim
    from nearfar.training.parallel import parallelise
    from nearfar.training.schedule import StepPlan
    from nearfar.training.settings import Training

    class Feed:
        waited = 0.0

        def __iter__(self):
            for step in range(2):
                torch.manual_seed(step)
                views = [share(torch.rand(8, 3, 16, 16).double()) for _ in range(len(some.views))]
                rows = torch.arange(8)
                yield Batch(views, share(rows), share(rows % 3), step)

    found = {}
    for name, network, optimizer, chunk in SHARDED:
        module = small(name, network=network).double()
        some = given(module, 1)
        if name == "ijepa" and distributed.world() > 1:
            models.checkpoint_activations(module)
        parallelise(module, "fsdp")
        maker = optim.optimizer(Training(optimizer=optimizer, lr=0.01), module)
        plan, cpu = StepPlan(((0, 2),)), torch.device("cpu")
        how = {"plan": plan, "lr": 0.01, "warmup": 0.0, "device": cpu}
        own = chunk and chunk // distributed.world()
        for step in engine.train(module, Feed(), maker, chunk=own, **how):
            for part, p in module.named_parameters():
                if p.grad is not None and step.number == 1:
                    found[f"{name}.{step.number}.grad.{part}"] = whole(p.grad)
        if distributed.world() > 1:
            parts = [p for p in module.parameters() if is_sharded(p)]
            count, held = (sum(x.numel() for x in some) for some in (parts, map(local, parts)))
            assert held <= count / distributed.world() * 1.01 and count > 50_000
        saved, numbers = checkpoint.state_of(module, maker)  # in one process, or in process 0
        found |= {f"{name}.{key}": value.clone() for key, value in saved.items()}
        if distributed.world() > 1:  # what every process reads from the files comes back to its place
            path, own = Path(distributed.same(tempfile.mkdtemp()), checkpoint.LAST), {}
            rest, numbers = checkpoint.state_of(module, maker, own)
            facts = {"step": 2, "numbers": numbers}
            for _ in range(2):  # the second time as of a later step
                facts["step"] += 1
                checkpoint.save_shared(path, rest, own, facts)
            distributed.barrier()
            read, facts = checkpoint.read(path)
            assert own.keys() and not own.keys() & rest.keys() and read.keys() == {*own, *rest}
            assert all(torch.equal(value, read[key]) for key, value in saved.items())
            assert (
                len([*(path.parent / checkpoint.SHARED).iterdir()]) == facts["world"] == distributed.world()
            )
            with torch.no_grad():
                for p in module.parameters():
                    local(p).zero_()
            checkpoint.restore(module, maker, read, facts["numbers"])
            distributed.barrier()
            shutil.rmtree(path.parent, ignore_errors=True)
            again, _ = checkpoint.state_of(module, maker)
            assert all(torch.equal(value, again[key]) for key, value in saved.items())
    return found if distributed.world() > 2 else found | halved()


def halved(saved: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Four steps in bfloat16: losses, and the state after them; in several processes with shared weights.

    Args:
        saved: a state to begin with.
    """
    from small import small

    from nearfar.core import collectives, distributed
    from nearfar.core.sharded import local
    from nearfar.data.batch import Batch
    from nearfar.training import checkpoint, engine, optim
    from nearfar.training.parallel import parallelise
    from nearfar.training.schedule import StepPlan
    from nearfar.training.settings import Training

    class Feed:
        waited = 0.0

        def __iter__(self):
            for step in range(4):
                torch.manual_seed(step)
                views = [share(torch.rand(32, 3, 16, 16)) for _ in range(2)]
                rows = torch.arange(32)
                yield Batch(views, share(rows), share(rows % 3), step)

    module = small("simclr", network="vit_w64_d2")
    parallelise(module, "fsdp", "bfloat16")
    seen: list[torch.dtype] = []
    for block in module.f.net.blocks:
        block.mlp[0].register_forward_hook(lambda layer, _, y: seen.append(y.dtype))
    maker = optim.optimizer(Training(optimizer="sgd", lr=0.002), module)
    if saved is not None:
        checkpoint.restore(module, maker, saved, {})
        again, _ = checkpoint.state_of(module, maker)
        assert again.keys() == saved.keys() and all(torch.equal(saved[key], again[key]) for key in saved)
    how = {"plan": StepPlan(((0, 4),)), "lr": 0.002, "warmup": 0.0, "device": torch.device("cpu")}
    found = {}
    for step in engine.train(module, Feed(), maker, precision="bfloat16", **how):
        found[f"bfloat16.loss.{step.number}"] = collectives.total(step.loss.detach().float())
    assert set(seen) == {torch.bfloat16} and all(local(p).dtype == torch.float32 for p in module.parameters())
    state, numbers = checkpoint.state_of(module, maker)
    assert not numbers
    count = distributed.world()
    return {key: x / count for key, x in found.items()} | {f"bfloat16.{key}": x for key, x in state.items()}


SHARDED = (
    ("ijepa", "vit_w64_d2", "lars", None),
    ("byol", "resnet10_w16", "adamw", None),
    ("mae", "vit_w64_d2", "muon", 4),
    ("simclr", "vit_w64_d2", "lars", None),
)


def queues() -> dict[str, Tensor]:
    """Three steps of methods that keep queues and slow copies, or that choose among everyone's pairs."""
    from small import given, small

    from nearfar.methods.base import Batch
    from nearfar.training.parallel import parallelise

    found = {}
    for number, (name, values) in enumerate(
        [
            ("moco", {"bn_splits": 4, "queue": 40}),
            ("mocov3", {"ema": 0.5}),
            ("nnclr", {"queue": 30}),  # which the third step, of 16, fills and goes round
            ("triplet", {"mining": "hard", "pairs": "labels"}),
            ("triplet", {"mining": "all", "pairs": "labels"}),
            ("drlim", {"pairs": "labels"}),
            ("simclr", {"decoupled": True}),
            ("simclr", {"keep_colour": True}),
            ("npid", {"bank_negatives": 4}),
            ("lejepa", {}),
        ]
    ):
        module = small(name, **values).double()
        whole = parallelise(module)
        maker = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], 0.01)
        for step in range(3):
            torch.manual_seed(step)
            views = [torch.rand(16, 3, 16, 16).double() for _ in given(module, 1).views]
            rows = torch.arange(16)
            kinds = rows % 5
            others = share(rows % 4 == 3) if "keep_colour" in values else None
            maker.zero_grad()
            shared = [share(x) for x in views]
            loss = whole(Batch(shared, share(rows), share(kinds), alternates=others))
            loss.total.backward()
            maker.step()
            module.after_step(step / 3, loss.watched)
        key = f"{number}.{name}"
        found |= {f"{key}.measure.{what}": value for what, value in module.metrics(loss.watched).items()}
        found |= {f"{key}.grad.{part}": p.grad for part, p in module.named_parameters() if p.requires_grad}
        found |= {f"{key}.{part}": value for part, value in module.state_dict().items()}
    return found


def replicas() -> dict[str, Tensor]:
    """Three steps of methods whose batches are cut into four shares, of one process or of several."""
    from small import given, small

    from nearfar.core import collectives, distributed
    from nearfar.data.batch import Batch
    from nearfar.training import engine
    from nearfar.training.schedule import StepPlan

    class Feed:
        waited = 0.0

        def __iter__(self):
            for step in range(3):
                torch.manual_seed(step)
                views = [share(torch.rand(32, 3, 16, 16).double()) for _ in range(len(some.views))]
                rows = torch.arange(32)
                yield Batch(views, share(rows), share(rows % 3), step)

    found = {}
    for name in ("simclr", "moco"):
        module = small(name, **({"bn_splits": 1} if name == "moco" else {})).double()
        some = given(module, 1)
        module.f.register_module("net", torch.nn.Sequential(module.f.net, torch.nn.Dropout(0.1)))
        maker = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], 0.01)
        plan, cpu = StepPlan(((0, 3),)), torch.device("cpu")
        threads = 4 // distributed.world()
        how = {"plan": plan, "lr": 0.01, "warmup": 0.0, "device": cpu, "threads": threads}
        for step in engine.train(module, Feed(), maker, **how):
            found[f"{name}.loss.{step.number}"] = collectives.total(step.loss.clone()) / distributed.world()
        found |= {f"{name}.{key}": value for key, value in module.state_dict().items()}
    return found


FUNCTIONS = {
    function.__name__: function
    for function in (words, losses, batchnorm, gradients, queues, replicas, sharded)
}

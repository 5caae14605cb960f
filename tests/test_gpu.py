"""What only a GPU can show; skipped where there is none."""

from __future__ import annotations

import types

import pytest
import torch
from test_kernels import block, strong

import nearfar
from nearfar.data.loader import AHEAD, DataLoader
from nearfar.images import kernels
from nearfar.images.kernels.batched import ROOM
from nearfar.images.view_settings import Views
from nearfar.losses import nt_xent, unit
from nearfar.training import checkpoint, optim
from nearfar.training.settings import Training

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]
GPU = torch.device("cuda", 0)


def test_the_loss_is_the_same_on_both_devices():
    draw = torch.Generator().manual_seed(0)
    z = [unit(torch.randn(5000, 64, generator=draw)) for _ in range(2)]
    values, grads = [], []
    for device in ("cpu", "cuda"):
        here = [part.detach().to(device).requires_grad_() for part in z]
        loss = nt_xent(*here, tau=0.1)
        loss.backward()
        values.append(loss.item())
        grads.append(here[0].grad.cpu())
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-3, atol=1e-8)


def test_a_run_on_a_gpu_ends_with_an_encoder_that_loads_on_a_cpu(photos, tmp_path):
    run = nearfar.pretrain(
        photos, out=tmp_path / "run", steps=5, batch_size=16, encoder="resnet18", device="cuda"
    )
    assert run.config["training"]["device"] == "cuda"
    assert next(run.encoder.parameters()).device.type == "cpu"
    assert torch.isfinite(run.encoder(torch.rand(2, 3, 16, 16))).all()


def test_views_made_on_a_gpu_are_the_cpus_and_nothing_waits_for_them():
    shapes = [(32, 32)] * 40 + [(375, 500), (60, 300), (17, 5)] * 4
    images = block(shapes)
    before = torch.get_float32_matmul_precision()
    try:
        for precision in ("highest", "high"):
            torch.set_float32_matmul_precision(precision)  # "high" rounds products to TF32: ours must not
            for size, interpolation in ((32, "bilinear"), (96, "bicubic")):
                draws = strong(images, size)
                truth = kernels.apply(images, draws, size, interpolation)
                kernels.apply(kernels.place(images, GPU), draws, size, interpolation)  # the first may wait
                torch.cuda.set_sync_debug_mode("error")
                made = kernels.apply(kernels.place(images, GPU), draws, size, interpolation)
                torch.cuda.set_sync_debug_mode("default")
                assert made.device == GPU and made.is_contiguous(memory_format=torch.channels_last)
                assert (made.cpu() - truth).abs().max() <= 1e-5
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.set_float32_matmul_precision(before)


class Images:
    """A store of a few images."""

    def __init__(self):
        self.block = block([(48, 64)] * 64)

    def __len__(self):
        return 64

    def gather(self, rows):
        part = self.block
        return types.SimpleNamespace(
            pixels=part.pixels, offset=part.offset[rows], height=part.height[rows], width=part.width[rows]
        )


def test_a_feed_on_a_gpu_hands_over_whole_batches_and_bounds_its_memory():
    settings = {"size": 224, "batch_size": 64, "seed": 1, "threads": 2}
    usual = DataLoader(Images(), (Views(), Views()), **settings)
    feed = DataLoader(Images(), (Views(), Views()), **settings, device=GPU)
    slow, kept = torch.rand(4096, 4096, device=GPU), []
    torch.cuda.reset_peak_memory_stats()
    start = torch.cuda.memory_stats()["active_bytes.all.current"]
    for step, batch in enumerate(feed):
        for _ in range(20):  # the device falls behind, and every batch waits its turn
            slow = torch.nn.functional.normalize(slow @ slow)
        kept.append((batch.rows, [view[:2].clone() for view in batch.views]))
        if step == 30:
            break
    feed.close()
    one_batch = 2 * 64 * 3 * 224 * 224 * 4
    # "Active" counts what is freed on the host but still in use on the device.
    held = torch.cuda.memory_stats()["active_bytes.all.peak"] - start - 4 * slow.nbytes
    assert held <= (AHEAD + 2) * one_batch + ROOM + 2**27
    for step, (rows, views) in enumerate(kept[:4] + kept[-1:]):
        truth = usual.make(step if step < 4 else 30)
        assert torch.equal(rows, truth.rows)
        for view, true in zip(views, truth.views, strict=True):
            assert (view.cpu() - true[:2]).abs().max() <= 1e-5


@pytest.mark.parametrize("place", ["auto", "cpu", "device"])
def test_a_run_on_a_gpu_records_where_its_views_were_made(photos, tmp_path, place):
    words = {"steps": 5, "batch_size": 16, "encoder": "resnet18", "device": "cuda", "precision": "float32"}
    run = nearfar.pretrain(photos, out=tmp_path / "run", views_on=place, **words)
    assert run.config["training"]["views_on"] in (("cpu", "device") if place == "auto" else (place,))


@pytest.mark.parametrize("name", ["lars", "sgd", "adamw", "muon"])
def test_a_save_is_gone_on_with_on_a_gpu(name):
    def made():
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.BatchNorm1d(8)).to(GPU)
        return net, optim.optimizer(Training(optimizer=name, lr=0.01), net)

    def steps(net, optimizer):
        for _ in range(3):
            optimizer.zero_grad()
            net(torch.linspace(-1, 1, 128, device=GPU).view(16, 8)).square().mean().backward()
            optimizer.step()

    net, optimizer = made()
    steps(net, optimizer)
    tensors, numbers = checkpoint.state_of(net, optimizer)
    kept = {key: value.cpu().clone() for key, value in tensors.items()}  # as it is read from a file
    steps(net, optimizer)
    again, other = made()
    checkpoint.restore(again, other, kept, numbers)
    steps(again, other)
    for key, value in net.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], value)

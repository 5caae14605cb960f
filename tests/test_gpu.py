"""What only a GPU can show; skipped where there is none."""

from __future__ import annotations

import pytest
import torch

import nearfar
from nearfar.losses import nt_xent, unit

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]


def test_the_loss_is_the_same_on_both_devices():
    draw = torch.Generator().manual_seed(0)
    z = [unit(torch.randn(5000, 64, generator=draw)) for _ in range(2)]
    values, grads = [], []
    for device in ("cpu", "cuda"):
        here = [part.to(device).requires_grad_() for part in z]
        loss = nt_xent(*here, tau=0.1)
        loss.backward()
        values.append(loss.item())
        grads.append(here[0].grad.cpu())
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-3, atol=1e-8)


def test_a_run_on_a_gpu_ends_with_an_encoder_that_loads_on_a_cpu(photos, tmp_path):
    run = nearfar.pretrain(photos, out=tmp_path / "run", steps=5, batch=16, encoder="resnet18", device="cuda")
    assert run.config["training"]["device"] == "cuda"
    assert next(run.encoder.parameters()).device.type == "cpu"
    assert torch.isfinite(run.encoder(torch.rand(2, 3, 16, 16))).all()

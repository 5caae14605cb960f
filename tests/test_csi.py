"""CSI: turned views are negatives, turns are told, and the score is the authors'."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small import given, small

import nearfar
from nearfar.analysis.anomalies import score_anomalies
from nearfar.analysis.anomaly_detectors import detector
from nearfar.core.errors import NearfarError
from nearfar.methods.csi import TurnedVectors
from nearfar.training.run import load


def test_a_turned_view_is_the_view_of_a_turned_image() -> None:
    module = small("csi").eval()
    batch = given(module, 3)
    z_i, _, logits = module.embed(batch)
    turned = module.f(torch.rot90(batch.views[0], 1, (2, 3)))
    torch.testing.assert_close(z_i[:, 1], torch.nn.functional.normalize(module.g(turned), dim=1))
    torch.testing.assert_close(logits[:, 1], module.turn(turned))
    assert logits.shape == (3, 8, 4) and module.negatives(3) == 22


def test_the_score_is_the_sum_over_turns() -> None:
    module = small("csi").eval()
    net = TurnedVectors(module.f, module.g.state_dict(), module.turn.state_dict()).eval()
    normal, asked = (given(module, count, seed=seed).views[0] for count, seed in ((7, 0), (4, 1)))
    with torch.no_grad():
        x, y = (net(images).numpy() for images in (normal, asked))
        slow = np.zeros(4)
        for r in range(4):
            h, k = (module.f(torch.rot90(images, r, (2, 3))) for images in (normal, asked))
            m, z = module.g(h), module.g(k)
            for i in range(4):
                slow[i] -= max(float(z[i] @ row / row.norm() / z[i].norm()) for row in m)
                slow[i] -= float(module.turn(k)[i, r] / module.turn(h)[:, r].mean())
    assert detector(x, "csi")(y) == pytest.approx(slow, rel=1e-4)
    alone = [detector(np.delete(x, at, 0), "csi")(x[at : at + 1])[0] for at in range(7)]
    assert score_anomalies(x, method="csi").scores == pytest.approx(alone, rel=0.2)  # means are of all seven


def drawn(folder: Path, count: int, upright: bool) -> None:
    """Write images that are light above and dark below, or the other way round, with some noise."""
    folder.mkdir(parents=True)
    draws = np.random.default_rng(int(upright))
    ramp = np.linspace(220, 40, 16)[:, None, None] if upright else np.linspace(40, 220, 16)[:, None, None]
    for number in range(count):
        pixels = np.clip(ramp + 25 * draws.standard_normal((16, 16, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")


def test_images_on_their_head_are_found(tmp_path: Path) -> None:
    drawn(tmp_path / "data" / "good", 60, True)
    drawn(tmp_path / "data" / "odd", 8, False)
    how = {
        "encoder": "resnet8",
        "head": (16, 8),
        "precision": "float32",
        "workers": 1,
        "device": "cpu",
        "health_checks": 0,
    }
    run = nearfar.pretrain(
        tmp_path / "data" / "good",
        out=tmp_path / "run",
        method="csi",
        steps=30,
        batch_size=16,
        flip=0.0,
        **how,
    )
    assert load(run.path).parts == ("g", "turn") and run.log()[-1]["turn_accuracy"] > 0.6
    store = nearfar.embed(run, tmp_path / "data", store=tmp_path / "x.nf", labels=True)
    found = nearfar.anomalies(
        tmp_path / "x.nf", method="csi", normal="label = 'good'", anomalous="label = 'odd'", fpr=0.1, limit=8
    )
    assert store is not None and found.facts["auroc"]["value"] > 0.95
    plain = nearfar.pretrain(tmp_path / "data", out=tmp_path / "p", steps=1, batch_size=16, **how)
    nearfar.embed(plain, tmp_path / "data", store=tmp_path / "p.nf")
    with pytest.raises(NearfarError, match="--method csi has trained"):
        nearfar.anomalies(tmp_path / "p.nf", method="csi")

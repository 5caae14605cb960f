"""One plan: what `check` shows of a run is what `pretrain` then does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nearfar
from nearfar.training import recipes, resolve
from nearfar.training.plan import plan_run
from nearfar.training.run import Run
from nearfar.training.run_config import RunConfig

SMALL = {"encoder": "resnet10_w16", "device": "cpu", "precision": "float32", "health_checks": 0, "workers": 1}
SMALL |= {"optimizer": "sgd", "colour": "change"}  # quick ones


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("count", "settings", "held"),
    [
        (3300, {"epochs": 1.0, "batch_size": 128}, 66),
        (3300, {"epochs": 1.0, "batch_size": 128, "holdout": 0.0}, 0),
        (500, {"epochs": 2.5, "batch_size": 96, "holdout": 0.2}, 100),
        (500, {"epochs": 2.0, "batch_size": 96}, 0),  # 2 % of 500 are too few to hold out
        (30, {"epochs": 2.0, "batch_size": 64}, 0),  # fewer than a batch
        (90, {"steps": 3, "batch_size": 32, "method": "byol"}, 0),
    ],
)
def test_check_tells_what_pretrain_does(
    count: int, settings: dict[str, Any], held: int, tmp_path: Path
) -> None:
    data = images(count)
    plan = nearfar.check(data, **SMALL, **settings).plan
    run = nearfar.pretrain(data, out=tmp_path / "run", **SMALL, **settings)
    assert plan is not None and isinstance(run, Run)
    config = RunConfig.from_json(run.config, "")
    assert (plan.images, plan.holdout) == (run.config["data"]["images"], run.config["data"]["holdout"])
    assert plan.holdout == held and plan.images == count - held
    assert plan.batch_size == config.training.batch_size
    assert plan.steps == run.config["plan"][-1][1] == run.log()[-1]["step"]
    assert plan.epochs == pytest.approx(run.log()[-1]["epoch"], abs=0.006)
    assert (plan.method, plan.recipe, plan.image_size) == (config.method, config.recipe, config.image_size)
    assert (plan.encoder, plan.stem, plan.precision) == (run.encoder.name, run.encoder.stem, "float32")
    assert plan.weights == sum(weight.numel() for weight in run.encoder.parameters())


def test_minutes_leave_the_steps_to_a_measurement() -> None:
    side, device = 32, resolve.torch.device("cpu")
    config = resolve.resolve("simclr", "cpu", {}, side=side, device=device)
    assert recipes.RECIPES["cpu"](side).training.minutes and plan_run(config, 5000, 0).steps is None
    assert plan_run(config, 5000, 0).images == 4900


def test_labels_that_cannot_be_used_count_no_class(tmp_path: Path) -> None:
    from PIL import Image

    for number in range(24):
        (tmp_path / "ab"[number % 2]).mkdir(exist_ok=True)
        Image.fromarray(images(24)[number]).save(tmp_path / "ab"[number % 2] / f"{number}.png")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "broken.png").write_bytes(b"nothing")
    settings: dict[str, Any] = SMALL | {"method": "supervised", "steps": 2, "batch_size": 8}
    plan = nearfar.check(tmp_path, **settings).plan
    assert plan is not None and plan.images == 24

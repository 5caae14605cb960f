"""Small pictures for every test: real files, made here, the same each time."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

# Two test processes share the machine: a thread each, for the processes that tests start too.
os.environ["OMP_NUM_THREADS"] = "1"
if sys.dont_write_bytecode:
    # Where none may stand beside the source, each process would compile all of torch's again.
    sys.dont_write_bytecode = False
    sys.pycache_prefix = str(Path(__file__).parents[1] / ".pytest_cache" / "bytecode")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from PIL import Image

from nearfar.core import rng

# Continuous integration tries the same examples each time; a developer's run goes looking for new ones.
# Neither is hurried: what else the machine does is no fault of a test.
UNHURRIED: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("ci", derandomize=True, database=None, **UNHURRIED)
settings.register_profile("own", **UNHURRIED)
settings.load_profile("ci" if os.environ.get("CI") else "own")


def pytest_configure(config: pytest.Config) -> None:
    """Keep the user's cache out of the tests: weights of `known` there would add rows to evaluations."""
    gc.disable()  # until all is imported
    cache = tempfile.TemporaryDirectory(prefix="nearfar-tests-")
    os.environ["NEARFAR_CACHE"] = cache.name
    config.add_cleanup(cache.cleanup)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Look for cycles again, less often and not among a million objects that stay: a tenth of all time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    gc.enable()


Looks = tuple[tuple[ModuleType, range | int], ...]


@pytest.fixture(scope="session", autouse=True)
def short_looks() -> Iterator[Looks]:
    """Let `check` time training for a moment, and runs look at few images of their own.

    How fast a machine is is no test's concern, and what is told of many images that of few: of those with
    `whole_looks`.
    """
    from nearfar.data import inspection
    from nearfar.training import check, monitor

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check, "TIMING", 0.2)
        users = (monitor, monitor.SAMPLE), (inspection, inspection.SAMPLE)
        patch.setattr(monitor, "SAMPLE", range(32, monitor.SAMPLE.stop))
        patch.setattr(inspection, "SAMPLE", 16)  # too few to tell, so that no network is asked
        yield users


@pytest.fixture(scope="module")
def whole_looks(short_looks: Looks) -> Iterator[None]:
    """Let runs look at as many of their images as they do for users."""
    with pytest.MonkeyPatch.context() as patch:
        for module, users in short_looks:
            patch.setattr(module, "SAMPLE", users)
        yield


@pytest.fixture(scope="module")
def narrow_resnet8() -> Iterator[None]:
    """Give the default encoder an eighth of its numbers, where any encoder shows what is tested."""
    from nearfar.models.residual import SHAPES, Shape, Stage

    stages = (Stage(16, down="pool"), Stage(32, down="pool"), Stage(32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SHAPES, "resnet8", Shape((8, 4, 2), stages, 64, True))
        yield


@pytest.fixture(scope="module")
def small_banks() -> Iterator[None]:
    """Keep fewer normal patches than for users, where few pictures show what is tested."""
    from nearfar.analysis import part_detector, patch_banks, whitened

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patch_banks, "MOST", 1000)
        patch.setattr(whitened, "MOST", 1000)
        patch.setattr(part_detector, "COMPARED", 2000)
        yield


def picture(number: int, side: int = 16, kind: int = 0) -> np.ndarray:
    """Draw one small picture: stripes of a direction that depends on its kind, in colours of its own."""
    u = rng.uniform(rng.fold(7, "picture"), [number], 8)[0]
    y, x = np.mgrid[:side, :side] / side
    angle = np.pi * (kind / 4 + 0.03 * (u[0] - 0.5))
    wave = 0.5 + 0.5 * np.sin(2 * np.pi * (3 * (x * np.cos(angle) + y * np.sin(angle)) + u[1]))
    colours = u[2:8].reshape(2, 3)
    return np.round(255 * (wave[..., None] * colours[0] + (1 - wave[..., None]) * colours[1])).astype(
        np.uint8
    )


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """A flat folder of 96 unlabelled PNG files, 16 px."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    folder.mkdir()
    for number in range(96):
        Image.fromarray(picture(number, kind=number % 4)).save(folder / f"{number:03d}.png")
    return folder


@pytest.fixture(scope="session")
def labelled(tmp_path_factory) -> Path:
    """Folders train/ and test/, each with 4 classes of stripes, 16 px."""
    root = tmp_path_factory.mktemp("data") / "labelled"
    for part, start, count in (("train", 1000, 40), ("test", 5000, 15)):
        for kind in range(4):
            folder = root / part / f"angle{kind}"
            folder.mkdir(parents=True)
            for number in range(count):
                image = picture(start + 100 * kind + number, kind=kind)
                Image.fromarray(image).save(folder / f"{number:03d}.png")
    return root


def known_vit(folder: Path, side: int) -> str:
    """The name of a small known vision transformer for images of a side, with random weights in a file."""
    import safetensors.torch
    import timm

    from nearfar import models

    with models.seeded(3, "vit"):
        state = timm.create_model("test_vit", img_size=side).state_dict()
    safetensors.torch.save_file(state, folder / "vit.safetensors")
    return f"timm:test_vit@{side}={folder / 'vit.safetensors'}"


@pytest.fixture
def known_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if `nearfar[known]` were installed and converted: random weights where the real ones are kept."""
    import safetensors.torch
    import timm

    from nearfar import models

    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "known").mkdir(parents=True)
    with models.seeded(4, "known"):
        state = timm.create_model("efficientnet_lite0").state_dict()
    safetensors.torch.save_file(state, tmp_path / "cache" / "known" / "efficientnet_lite0.safetensors")

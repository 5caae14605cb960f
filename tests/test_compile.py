"""A compiled network: the same weights under the same names, and nearly the same numbers."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch

import nearfar
from nearfar import models

TINY = {"steps": 3, "batch_size": 16, "encoder": "resnet10_w16", "device": "cpu", "precision": "float32"}
needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs g++ on a CPU")


def test_auto_leaves_a_cpu_run_as_it_is_and_says_so(photos, tmp_path) -> None:
    run = nearfar.pretrain(photos, out=tmp_path / "run", **TINY)
    assert run.config["training"]["compile"] == "no"


def test_compiling_is_a_switch_that_leaves_weights_and_copies_alone() -> None:
    f = models.encoder("resnet10_w16")
    names = list(f.state_dict())
    f.compiled()
    assert (
        list(f.state_dict()) == names
        and len(list(f.modules())) == len(list(copy.deepcopy(f.net).modules())) + 1
    )
    f.compiled(False)
    assert f.eval()(torch.rand(2, 3, 16, 16)).shape == (2, f.dim)


@needs_compiler
@pytest.mark.long
def test_a_compiled_run_learns_the_same_and_resumes(photos, tmp_path) -> None:
    plain = nearfar.pretrain(photos, out=tmp_path / "plain", **TINY)
    quick = nearfar.pretrain(photos, out=tmp_path / "quick", compile="yes", **TINY)
    assert quick.config["training"]["compile"] == "yes"
    for (name, a), b in zip(
        plain.encoder.state_dict().items(), quick.encoder.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=0.05, atol=0.02, msg=name)
    again = nearfar.pretrain(photos, out=tmp_path / "quick", **TINY)  # finished, and "auto" is what was found
    assert again.path == quick.path

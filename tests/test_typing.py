"""Calls from Python are typed: mypy knows every setting, and refuses a name or a type that is wrong."""

from __future__ import annotations

import inspect
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from nearfar import methods
from nearfar.core.config import settings_of
from nearfar.data.modalities import MODALITIES, modality
from nearfar.evaluation import evaluate
from nearfar.training.options import Options
from nearfar.training.settings import Training

CALLS = """
import nearfar
run = nearfar.pretrain("photos", out="runs/a", minutes=10, temperature=0.1, head=(64, 32), lambda_=None)
reveal_type(run)
nearfar.pretrain("photos", learning_rate=0.1)
nearfar.check("photos", batch_size="many")
nearfar.compare("photos", methods=["simclr", "byol"], epochs=2, recipe="cpu", tau=1.0)
nearfar.sweep("photos", budget="1h", minutes_each=3, stemm="auto")
nearfar.evaluate("runs/a", train="labelled", sed=1)
reveal_type(nearfar.evaluate("runs/a", "runs/b", train="labelled", parts=["retrieval"]))
"""


def test_every_parameter_of_evaluate_is_known_to_its_overloads() -> None:
    real = inspect.signature(evaluate.evaluate).parameters
    assert {*real} - {"run", "others", "train", "test"} == {*typing.get_type_hints(evaluate.Keywords)}


def test_every_setting_is_an_option() -> None:
    kinds = [modality(name).views for name in MODALITIES]
    classes = [Training, *kinds, *(methods.settings(name) for name in methods.METHODS)]
    names = {item.name for cls in classes for item in settings_of(cls)}
    assert set(typing.get_type_hints(Options)) == names == Options.__optional_keys__


@pytest.mark.slow
def test_mypy_knows_the_settings(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="no mypy here: pip install 'nearfar[dev]'")
    (tmp_path / "calls.py").write_text(CALLS)
    root = Path(__file__).parent.parent
    command = [sys.executable, "-m", "mypy", "--config-file", str(root / "pyproject.toml")]
    done = subprocess.run([*command, str(tmp_path / "calls.py")], cwd=root, capture_output=True, text=True)
    told = [line.split(": ", 1)[0].rsplit(":", 1)[1] + line.split(": ", 1)[1] for line in
            done.stdout.splitlines() if "calls.py:" in line]  # fmt: skip
    assert "nearfar.training.run.Run" in told[0] and told[0].startswith("4")
    assert any(line.startswith("10") and "PairedEvaluations" in line for line in told)
    wrong = {"5": "learning_rate", "6": "batch_size", "7": "tau", "8": "stemm", "9": "sed"}
    refused: dict[str, str] = {}
    for line in told[1:]:
        if "error" in line:
            refused.setdefault(line[0], line)  # of a function with overloads, more follow
    assert [*refused] == [*wrong]
    assert all(f'"{wrong[number]}"' in line for number, line in refused.items())

"""Every part of an evaluation, from the table: it runs on a few pictures, is shown, and has its flag."""

import json
import math

import numpy as np
import pytest
from torch import nn

from nearfar import models
from nearfar.cli.main import main
from nearfar.core.errors import NearfarError
from nearfar.evaluation import PARTS, chosen, few_labels
from nearfar.evaluation.evaluate import evaluate
from nearfar.evaluation.part import EvaluationPart
from nearfar.finetuning import trainer
from nearfar.images.views import Preprocess
from nearfar.training.run import Run


class _Colour(models.Encoder):
    """Encodes mean colour."""

    def __init__(self):
        net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 3, 1), nn.Flatten())
        super().__init__(net, 3, "resnet10_w16", "standard", 8)


def labelled(count, seed):
    """Red, green and blue noise, labelled by colour."""
    draw = np.random.default_rng(seed)
    classes = np.arange(count) % 3
    pixels = draw.normal(128, 40, (count, 8, 8, 3))
    pixels[np.arange(count), :, :, classes] += 60
    return pixels.clip(0, 255).astype(np.uint8), [("red", "green", "blue")[k] for k in classes]


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "MIN_STEPS", 2)
    monkeypatch.setattr(few_labels, "DRAWS", (2, 2))
    return Run(tmp_path, _Colour().eval(), Preprocess.of(8), {}, {})


def numbers(value):
    """Every number of a nested plain value."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for item in value for number in numbers(item)]
    return [value] if isinstance(value, (int, float)) and not isinstance(value, bool) else []


@pytest.mark.parametrize("name", PARTS)
def test_a_part_runs_and_is_shown(run, name):
    data = {"train": labelled(30, 0), "test": labelled(12, 1), "device": "cpu", "baselines": ("pixels",)}
    plain, found = evaluate(run, **data), evaluate(run, **data, parts=[name])
    part = PARTS[name].load()
    assert issubclass(part, EvaluationPart) and part.__doc__
    classifies = bool(part.modes) or "classify" in vars(part)  # what trains or classifies has a column
    assert classifies == bool(PARTS[name].column)
    new = json.loads(json.dumps(found.to_json()))
    assert new.keys() - plain.to_json().keys() == {name}
    assert "encoder" in new[name] or "encoder" in new[name]["rows"]
    assert numbers(new[name]) and all(map(math.isfinite, numbers(new[name])))
    assert set(found.table().splitlines()) - set(plain.table().splitlines())
    if PARTS[name].column:
        assert PARTS[name].column in found.table()
    assert found.knn["encoder"].to_json() == plain.knn["encoder"].to_json()


def test_every_part_has_its_flag_and_its_help(capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for name, entry in PARTS.items():
        assert f"--{name.replace('_', '-')} " in shown and entry.help in shown


def test_names_of_parts_are_checked():
    assert chosen("all") == tuple(PARTS)
    assert chosen(["retrieval", "few_labels", "retrieval"]) == ("few_labels", "retrieval")
    assert chosen("clusters") == ("clusters",) and chosen(()) == ()
    with pytest.raises(NearfarError, match="part 'retrieva' .* did you mean retrieval"):
        chosen(["retrieva"])

"""From what was asked to what is done: the recipe gives, what was typed wins, and nothing stays undecided."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small import IMAGE_METHODS

from nearfar import methods, models
from nearfar.core.config import to_json
from nearfar.core.device import device_named
from nearfar.core.errors import NearfarError
from nearfar.data.sources import open_source
from nearfar.experiments import space
from nearfar.images.views import Preprocess
from nearfar.training import inputs, plan, recipe_table, recipes, resolve
from nearfar.training.collection_settings import usual_range, usual_side
from nearfar.training.run import export
from nearfar.training.run_config import RunConfig

CPU = torch.device("cpu")


def wanted(**asked: object) -> RunConfig:
    return resolve.resolve("simclr", "cpu", asked, side=32, device=CPU)


@pytest.mark.parametrize("name", recipes.RECIPES)
@pytest.mark.parametrize("side", [20, 32, 64, 65, 3000])
def test_every_recipe_decides_everything_and_survives_json(name, side):
    made = resolve.resolve("simclr", name, {}, side=side, device=CPU)
    lengths = [getattr(made.training, length) for length in resolve.LENGTHS]
    assert sum(length is not None for length in lengths) == 1
    assert made.image_size >= 8 and made.lr > 0
    assert RunConfig.from_json(json.loads(json.dumps(made.to_json())), "") == made


def test_small_images_keep_their_size_and_are_used_whole():
    assert (wanted().image_size, wanted().preprocess.crop) == (32, 1.0)
    large = resolve.resolve("simclr", "imagenet", {}, side=500, device=CPU)
    assert (large.image_size, large.preprocess.crop, large.preprocess.decode_side) == (224, 0.875, 256)


def test_the_device_and_the_size_choose_the_recipe():
    assert recipes.choose("cpu", 32) == recipes.choose("cpu", 500) == "cpu"
    assert recipes.choose("cuda", 32) == "cifar-short"
    assert recipes.choose("cuda", 500) == "imagenet"


def test_what_is_asked_wins_over_the_recipe_and_its_length_replaces_the_recipes():
    made = wanted(temperature=0.7, epochs=3.0, crop_min=0.5, batch_size=64)
    assert (made.settings.temperature, made.training.epochs, made.training.minutes) == (0.7, 3.0, None)
    assert (made.views.crop_min, made.training.batch_size) == (0.5, 64)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"steps": 3, "epochs": 2.0}, "one length"),
        ({"temperatur": 0.1}, "did you mean temperature"),
        ({"temperature": -1.0}, "--temperature is -1.0"),
        ({"minutes": 0.0}, "above zero"),
        ({"crop_min": 0.5, "crop_max": 0.2}, "--crop-min 0.2 or less"),
        ({"optimizer": "adam"}, "did you mean adamw"),
    ],
)
def test_what_cannot_be_done_is_named(asked, says):
    with pytest.raises(NearfarError, match=says):
        wanted(**asked)


def test_auto_encoder_is_the_recipes():
    assert wanted(encoder="auto") == wanted()
    assert wanted(encoder="resnet18").training.encoder == "resnet18"


@pytest.mark.parametrize("method", IMAGE_METHODS)
def test_the_table_of_recipes_tells_what_a_run_has(method):
    assert methods.own_recipes(method) == methods.method(method).recipes
    for side in (32, 1000):
        for recipe in recipes.RECIPES:
            made = resolve.resolve(method, recipe, {}, side=side, device=CPU)
            told = recipe_table.values(recipe, method)
            for part in (made.training, made.views, made.settings):
                for name, value in to_json(part).items():
                    shown = told[name]
                    if name == "image_size":
                        small, _, large = shown.partition(" or ")
                        shown = int((small if side == 32 else large or small).replace("own", "32"))
                    if name in ("device", "modality"):  # found when a run begins
                        continue
                    assert value == (list(shown) if isinstance(shown, tuple) else shown), (recipe, name)
                    if name not in recipe_table.by_recipe(method):
                        assert told[name] == recipe_table.defaults(method)[name], name


def test_an_unknown_recipe_or_device_is_named():
    with pytest.raises(NearfarError, match="did you mean cifar-short"):
        resolve.resolve("simclr", "cifar-shrt", {}, side=32, device=CPU)
    if not torch.cuda.is_available():
        with pytest.raises(NearfarError, match="no cuda device here; use --device cpu"):
            device_named("cuda")


def test_rate_rules():
    assert wanted(lr=0.1, lr_scaling="linear", batch_size=512).lr == pytest.approx(0.2)
    assert wanted(lr=0.1, lr_scaling="sqrt", batch_size=64).lr == pytest.approx(0.8)


def test_differences_name_what_changed_and_leave_out_what_does_not_matter():
    assert wanted().differences(wanted(workers=1, save_minutes=9.0)) == []
    assert wanted().differences(wanted(temperature=0.3, head=(64, 32))) == [
        "--temperature 0.1 became 0.3",
        "--head 256 128 became 64 32",
    ]


def test_the_batch_fits_the_images():
    made, notes = plan.fit_batch(wanted(batch_size=256), 100)
    assert made.training.batch_size == 100 and "fewer than a batch of 256" in notes[0]
    assert plan.fit_batch(wanted(batch_size=64), 100)[0].training.batch_size == 64
    assert plan.fit_batch(wanted(batch_size=64, micro_batch=64), 100)[0].training.micro_batch is None
    with pytest.raises(NearfarError, match="0 usable images are too few"):
        plan.fit_batch(wanted(), 0)


@pytest.mark.parametrize("length", [{"steps": 10**20}, {"epochs": 1e300}])
def test_more_steps_than_can_be_kept_are_refused(length):
    with pytest.raises(NearfarError, match="give fewer with --steps or --epochs"):
        plan.step_count(wanted(**length).training, 1000)


def test_the_usual_side_is_the_median_of_what_can_be_used():
    assert usual_side(open_source(np.zeros((5, 20, 30, 3), np.uint8)), 10**6) == 20
    with pytest.raises(NearfarError, match="of 5 images .* none can be used"):
        usual_side(open_source(np.zeros((5, 20, 30, 3), np.uint8)), 100)


def test_the_same_seed_builds_the_same_method():
    def weights(seed: int) -> dict[str, torch.Tensor]:
        return resolve.build_method(wanted(seed=seed, encoder="resnet10_w16")).state_dict()

    one, two, three = weights(0), weights(0), weights(1)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["g.0.weight"], three["g.0.weight"])
    assert not torch.equal(one["f.net.conv1.weight"], three["f.net.conv1.weight"])


def repeated(folder: Path, method: str = "simclr", recipe: str = "auto", **given: object) -> RunConfig:
    source = open_source(np.zeros((5, 32, 32, 3), np.uint8))
    return inputs.decide_settings(source, method, recipe, folder / "a", given, CPU, [])[0]


def test_a_repeated_run_takes_what_may_differ_and_refuses_another_method_or_recipe(tmp_path):
    asked = {"data": "photos/", "method": "simclr", "recipe": "auto"}
    config = {"nearfar": "0", "torch": "0", "asked": asked, **wanted(workers=3).to_json(), "plan": [[0, 8]]}
    config["data"] = {"name": "photos/", "images": 100, "fingerprint": ""}
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.json").write_text(json.dumps(config))
    assert repeated(tmp_path) == wanted(workers=3) == repeated(tmp_path, recipe="cpu")
    own = {"workers": 1, "stop_on_collapse": True, "health_checks": 3}
    assert repeated(tmp_path, **own) == wanted(**own)
    for words, says in (
        ({"method": "byol"}, "also --method simclr; leave --method out"),
        ({"recipe": "imagenet"}, "also --recipe cpu; leave --recipe out"),
        ({"batch_size": 8}, "leave --batch-size out"),
        ({"lambda_": 0.1}, "leave --lambda out"),
    ):
        with pytest.raises(NearfarError, match=says):
            repeated(tmp_path, **words)


def test_settings_of_which_one_would_be_ignored_are_refused(tmp_path):
    with pytest.raises(NearfarError, match="--health-checks 0 leaves none"):
        inputs.check_stopping(wanted(stop_on_collapse=True, health_checks=0))
    with pytest.raises(NearfarError, match="--range and --percentiles exclude each other"):
        usual_range(open_source(np.zeros((2, 8, 8), np.uint16)), {"range": (0, 9), "percentiles": (1, 99)})
    export(tmp_path, models.encoder("resnet18", size=32, stem="small"), Preprocess.of(32), {})
    assert wanted(weights=str(tmp_path), stem="small").training.stem == "small"
    with pytest.raises(NearfarError, match="belong to the small stem, not to standard; leave --stem out"):
        wanted(weights=str(tmp_path), stem="standard")


def test_a_setting_whose_name_python_keeps_is_named_as_it_is_typed():
    barlow = [resolve.resolve("barlow_twins", "cpu", {"lambda_": x}, side=32, device=CPU) for x in (0.5, 1.0)]
    assert barlow[0].differences(barlow[1]) == ["--lambda 0.5 became 1.0"]
    assert space.words({"lambda_": 0.5}) == ["--lambda", "0.5"]

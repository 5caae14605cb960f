"""Settings: one line each, checked strictly, and the same after a trip through JSON."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nearfar import methods
from nearfar.cli.flags import Parser, describe
from nearfar.core import config
from nearfar.core.config import setting
from nearfar.core.errors import NearfarError, nearest
from nearfar.images.view_settings import Views
from nearfar.training import recipes, resolve, settings


@dataclass(frozen=True)
class Kinds:
    number: int = setting(3, "a count", low=1, high=9)
    share: float = setting(0.5, "a share", low=0.0, high=1.0)
    word: str = setting("red", "a colour", choices=("red", "green"))
    maybe: int | None = setting(None, "a count, if any", low=2)
    many: tuple[int, ...] = setting((4, 5), "some counts", low=1)
    yes: bool = setting(True, "a choice")


ALL = [Kinds, settings.Training, Views, *(methods.settings(name) for name in methods.METHODS)]


@pytest.mark.parametrize("method", methods.METHODS)
def test_a_methods_own_recipes_pass_and_its_settings_share_no_name(method: str) -> None:
    own = {item.name for item in config.settings_of(methods.settings(method))}
    for cls in (settings.Training, Views):
        assert not own & {item.name for item in config.settings_of(cls)}
    assert set(methods.method(method).recipes) <= set(recipes.RECIPES)
    for name in recipes.RECIPES:
        kind = methods.method(method).modality or "images"
        resolve.resolve(method, name, {}, side=32, device=torch.device("cpu"), kind=kind)


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__qualname__)
def test_defaults_pass_their_own_checks_and_survive_json(cls: type) -> None:
    made = cls()
    again = config.build(cls, json.loads(json.dumps(config.to_json(made))))
    assert again == made


@given(
    st.builds(
        Kinds,
        number=st.integers(1, 9),
        share=st.floats(0, 1),
        word=st.sampled_from(["red", "green"]),
        maybe=st.none() | st.integers(2, 10**9),
        many=st.lists(st.integers(1, 10**6)).map(tuple),
        yes=st.booleans(),
    )
)
def test_any_allowed_settings_survive_json_and_flags(made: Kinds) -> None:
    plain = config.to_json(made)
    assert config.build(Kinds, json.loads(json.dumps(plain))) == made
    parser = Parser("try", "nearfar try", "Try.")
    parser.settings("all", Kinds)
    words: list[str] = []
    for item in config.settings_of(Kinds):
        value = getattr(made, item.name)
        if item.type is bool:
            words.append(item.flag if value else "--no-" + item.flag[2:])
        elif value not in (None, ()):
            words += [item.flag, *map(repr, value)] if item.many else [f"{item.flag}={value}"]
    typed = parser.read(words)
    assert config.build(Kinds, {"many": (), **typed}) == made


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"numbr": 3}, "did you mean number"),
        ({"number": 0}, "it must be from 1 to 9"),
        ({"number": 10}, "it must be from 1 to 9"),
        ({"number": 2.0}, "takes a int"),
        ({"number": "2"}, "takes a int"),
        ({"number": True}, "takes a int"),
        ({"number": None}, "takes a int"),
        ({"share": float("nan")}, "finite"),
        ({"share": float("inf")}, "finite"),
        ({"share": 1.01}, "from 0.0 to 1.0"),
        ({"maybe": 1}, "at least 2"),
        ({"many": [3, 0]}, "at least 1"),
        ({"many": [3, "x"]}, "takes a int"),
        ({"word": "gren"}, "did you mean green"),
        ({"yes": 1}, "takes a bool"),
    ],
)
def test_mistakes_are_refused_with_what_to_type(values: dict[str, Any], says: str) -> None:
    with pytest.raises(NearfarError) as caught:
        config.build(Kinds, values, "here: ")
    assert str(caught.value).startswith("here: ")
    assert says in str(caught.value)


def test_an_int_serves_as_a_float() -> None:
    made = config.build(Kinds, {"share": 1})
    assert made.share == 1.0 and isinstance(made.share, float)


@pytest.mark.parametrize("name", methods.METHODS)
def test_peeking_at_a_method_finds_the_settings_it_has(name: str) -> None:
    peeked = methods.settings(name)
    imported = __import__(f"nearfar.methods.{name}", fromlist=["Config"]).Config
    assert config.settings_of(peeked) == config.settings_of(imported)


@pytest.mark.parametrize("name", recipes.RECIPES)
@pytest.mark.parametrize("side", [32, 300])
def test_recipes_hold_only_settings_that_pass(name: str, side: int) -> None:
    recipe = recipes.RECIPES[name](side)
    assert config.build(settings.Training, config.to_json(recipe.training)) == recipe.training
    assert config.build(Views, config.to_json(recipe.views)) == recipe.views
    lengths = [recipe.training.epochs, recipe.training.steps, recipe.training.minutes]
    assert sum(length is not None for length in lengths) == 1


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__qualname__)
def test_settings_cannot_be_changed(cls: type) -> None:
    made = cls()
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.anything = 0


def test_a_setting_is_described_with_default_range_and_source() -> None:
    flip = next(item for item in config.settings_of(Views) if item.name == "flip")
    assert describe(flip) == "chance of a left-right flip (default 0.5; 0 to 1; SimCLR, appendix A)"


def test_nearest_offers_close_names_or_a_list() -> None:
    assert nearest("resnt18", ["resnet18", "vit"]) == "did you mean resnet18?"
    assert nearest("ab", ["abc", "abd"]) == "did you mean abd or abc?"
    assert nearest("zzz", ["a", "b"]) == "choose from a, b"
    assert nearest("?", [f"name{i:02d}" for i in range(20)]).endswith("name11, ...")

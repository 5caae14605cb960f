"""Every recipe of every method against one literal table, written from the authors' files and not from ours.

A bias before a batch norm does nothing and is in no table; rates are those of the recipe's batch, after the
authors' own rule.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from nearfar import methods, models
from nearfar.core.errors import NearfarError
from nearfar.images.view_settings import Views
from nearfar.images.views import View
from nearfar.methods.base import Method
from nearfar.training import recipes, resolve
from nearfar.training.run_config import RunConfig

STRONG, MILD, BYOL, MOCO = (
    (0.8, 0.8, 0.8, 0.2),
    (0.4, 0.4, 0.4, 0.1),
    (0.4, 0.4, 0.2, 0.1),
    (0.4, 0.4, 0.4, 0.1),
)
TWO = "g.0.weight g.1.weight g.1.bias g.3.weight"  # linear, batch norm, linear without a bias
THREE = f"{TWO} g.4.weight g.4.bias g.6.weight"


def both(crop: float, colours: Any, blur: float) -> list[Any]:
    """Two views alike: crop, colours, blur, solarise."""
    return 2 * [((crop, 1.0), colours, blur, 0.0)]


def byol(crop: float) -> list[Any]:
    """The two views of BYOL, table 6."""
    return [((crop, 1.0), BYOL, 1.0, 0.0), ((crop, 1.0), BYOL, 0.1, 0.2)]


PLAIN = "g.0.weight g.0.bias g.2.weight g.2.bias"  # linear, linear
DINO = " ".join([*(f"g.layers.{n}.{what}" for n in (0, 2, 4) for what in ("weight", "bias")), "g.last"])
MOMENTUM = f"{TWO} {TWO.replace('g.', 'predict.')}"
# method, recipe: optimizer, peak rate, decay, warm-up, head, trained parameters of heads, views, exported
TABLE: dict[tuple[str, str], tuple[Any, ...]] = {
    # SimCLR's TensorFlow code: 0.075 sqrt(batch), two layers 2048-2048-128, the last norm with gamma alone
    ("simclr", "imagenet"): (
        "lars", 0.075 * 512**0.5, 1e-6, 0.1, (2048, 128), f"{TWO} g.4.weight", both(0.08, STRONG, 0.5), "f",
    ),
    # MoCo's main_moco.py --aug-plus --mlp --cos
    ("moco", "imagenet"): (
        "sgd", 0.06, 1e-4, 0.0, (2048, 128), PLAIN, both(0.2, MOCO, 0.5), "f",
    ),
    # MoCo v3's main_moco.py and moco/builder.py, ResNet-50, 100 epochs
    ("mocov3", "imagenet"): (
        "lars", 1.2, 1e-6, 0.1, (4096, 256), MOMENTUM, byol(0.2), "f",
    ),
    # the same for ViT: 300 epochs, 40 of warm-up
    ("mocov3", "vit"): (
        "adamw", 3e-4, 0.1, 40 / 300, (4096, 4096, 256),
        f"{THREE} {TWO.replace('g.', 'predict.')}", byol(0.08), "f",
    ),
    # BYOL's configs/byol.py, 100 epochs
    ("byol", "imagenet"): (
        "lars", 0.9, 1e-6, 0.1, (4096, 256), f"{TWO} {TWO.replace('g.', 'q.')}", byol(0.08), "f",
    ),
    # SimSiam's main_simsiam.py and simsiam/builder.py
    ("simsiam", "imagenet"): (
        "sgd", 0.1, 1e-4, 0.0, (2048, 2048, 2048),
        f"{THREE} h.0.weight h.1.weight h.1.bias h.3.weight h.3.bias", both(0.2, MOCO, 0.5), "f",
    ),
    # Barlow Twins' main.py
    ("barlow_twins", "imagenet"): ("lars", 0.4, 1.5e-6, 0.1, (8192, 8192, 8192), THREE, byol(0.08), "f"),
    # VICReg's main_vicreg.py and augmentations.py
    ("vicreg", "imagenet"): ("lars", 0.6, 1e-6, 0.1, (8192, 8192, 8192), THREE, byol(0.08), "f"),
    # SwAV's scripts/swav_200ep_bs256_pretrain.sh, with its six small views
    ("swav", "imagenet"): (
        "lars", 1.2, 1e-6, 0.0, (2048, 128), f"{TWO} g.3.bias prototypes",
        [*both(0.14, STRONG, 0.5), *6 * [((0.05, 0.14), STRONG, 0.5, 0.0)]], "f",
    ),
    # DINO's main_dino.py, and its README's command for ResNet-50
    ("dino", "imagenet"): (
        "sgd", 0.06, 1e-4, 0.1, (2048, 2048, 256),
        DINO,
        [*byol(0.14), *8 * [((0.05, 0.14), BYOL, 0.5, 0.0)]], "slow_f",
    ),
    # DINO's main_dino.py, ViT-S
    ("dino", "vit"): (
        "adamw", 1e-3, 0.04, 10 / 300, (2048, 2048, 256),
        DINO,
        [*byol(0.4), *8 * [((0.05, 0.4), BYOL, 0.5, 0.0)]], "slow_f",
    ),
    # SupCon's main_supcon.py --cosine: 0.5, for a loss that is 0.1 / 0.07 of equation 2
    ("supcon", "cifar-long"): (
        "sgd", 0.714, 1e-4, 0.01, (512, 128), PLAIN, both(0.2, MILD, 0.0), "f",
    ),
    # MoCo's notebook for CIFAR-10, 0.03 at batch 512 here as at 256 there by the linear rule
    ("moco", "cifar-long"): (
        "sgd", 0.06, 5e-4, 0.0, (512, 128), PLAIN, both(0.2, MILD, 0.0), "f",
    ),
    # solo-learn's scripts/pretrain/cifar
    ("byol", "cifar-long"): (
        "lars", 2.0, 1e-5, 0.01, (4096, 256), f"{TWO} {TWO.replace('g.', 'q.')}", both(0.2, BYOL, 0.0), "f",
    ),
    ("barlow_twins", "cifar-long"): (
        "lars", 0.6, 1e-4, 0.01, (2048, 2048, 2048), THREE, both(0.2, MILD, 0.0), "f",
    ),
    ("swav", "cifar-long"): (
        "lars", 1.2, 1e-6, 0.01, (2048, 128), f"{TWO} g.3.bias prototypes", both(0.2, MILD, 0.0), "f",
    ),
    ("mocov3", "cifar-long"): (
        "lars", 0.6, 1e-6, 0.01, (4096, 256), MOMENTUM, both(0.2, MILD, 0.0), "f",
    ),
}  # fmt: skip


def built(method: str, recipe: str) -> tuple[RunConfig, Method]:
    """A method as a recipe makes it, on an encoder of the recipe's width; its weights take no memory."""
    side = 32 if recipe.startswith("cifar") else 500
    wanted = resolve.resolve(method, recipe, {}, side=side, device=torch.device("cpu"))
    if recipe == "vit":
        f = models.encoder("vit_tiny_patch16_224", size=32)
        f.untrained = False  # positions are of no interest here
    else:
        width = 2048 if recipe == "imagenet" else 512
        f = models.Encoder(nn.Linear(3, width), width, "a", "standard", None)
    with torch.device("meta"):
        return wanted, methods.method(method)(f, wanted.settings)


@pytest.mark.parametrize(("method", "recipe"), TABLE)
def test_recipes_are_the_authors(method: str, recipe: str) -> None:
    optimizer, rate, decay, warmup, head, heads, views, exported = TABLE[method, recipe]
    wanted, module = built(method, recipe)
    training = wanted.training
    assert training.optimizer == optimizer
    assert (wanted.lr, training.weight_decay, training.warmup) == pytest.approx(
        (rate, decay, warmup), rel=1e-6
    )
    assert tuple(wanted.settings.head) == head and module.exports == exported
    trained = [name for name, p in module.named_parameters() if p.requires_grad and not name.startswith("f.")]
    assert sorted(trained) == sorted(heads.split())
    assert [seen(view) for view in module.views(wanted.views)] == views


def seen(view: Views | View) -> tuple[Any, ...]:
    """What a row of the table says of a view."""
    v = view.recipe if isinstance(view, View) else view
    assert (v.flip, v.jitter) == (0.5, 0.8)
    return (v.crop_min, v.crop_max), (v.brightness, v.contrast, v.saturation, v.hue), v.blur, v.solarize


SMALL, BASE = "vit_small_patch16_224", "vit_base_patch16_224"
# method, named encoder, recipe: optimizer, peak rate, decay, least crop, flip, jitter, grey, blur, its own
TASKS: dict[tuple[str, str, str], tuple[Any, ...]] = {
    # LeJEPA's README: AdamW at 5e-4, decay 5e-4 for ResNets and 5e-2 for ViTs
    ("lejepa", "auto", "imagenet"): ("adamw", 5e-4, 5e-4, 0.08, 0.5, 0.8, 0.2, 0.5, {}),
    ("lejepa", SMALL, "vit"): ("adamw", 5e-4, 5e-2, 0.08, 0.5, 0.8, 0.2, 0.5, {}),
    # MAE's main_pretrain.py and appendix A.1: crops from .2 and flips, 1.5e-4 for 256 images
    ("mae", "auto", "imagenet"): ("adamw", 3e-4, 0.05, 0.2, 0.5, 0.0, 0.0, 0.0, {}),
    ("mae", BASE, "vit"): ("adamw", 3e-4, 0.05, 0.2, 0.5, 0.0, 0.0, 0.0, {}),
    # SimMIM's simmim_pretrain__vit_base__img224__800ep.yaml: 1e-4 for 512 images; crops from .67
    ("simmim", "auto", "imagenet"): ("adamw", 1e-4, 0.05, 0.67, 0.5, 0.0, 0.0, 0.0, {"block": 32}),
    ("simmim", BASE, "vit"): ("adamw", 1e-4, 0.05, 0.67, 0.5, 0.0, 0.0, 0.0, {"block": 32}),
    # BEiT's README: 1.5e-3 for 2048 images; its crops and colours are ours, as MAE's
    ("beit", "auto", "imagenet"): ("adamw", 3.8e-4, 0.05, 0.6, 0.5, 0.0, 0.0, 0.0, {}),
    ("beit", BASE, "vit"): ("adamw", 3.8e-4, 0.05, 0.6, 0.5, 0.0, 0.0, 0.0, {}),
    # I-JEPA's transforms.py and configs: crops from .3, neither flips nor colours
    ("ijepa", "auto", "imagenet"): ("adamw", 2.5e-4, 0.05, 0.3, 0.0, 0.0, 0.0, 0.0, {}),
    ("ijepa", BASE, "vit"): ("adamw", 2.5e-4, 0.05, 0.3, 0.0, 0.0, 0.0, 0.0, {}),
    # iBOT's main_ibot.py
    ("ibot", "auto", "imagenet"): ("adamw", 1e-3, 0.04, 0.14, 0.5, 0.8, 0.2, 0.5, {"norm_head": False}),
    ("ibot", SMALL, "vit"): ("adamw", 1e-3, 0.04, 0.14, 0.5, 0.8, 0.2, 0.5, {"norm_head": False}),
    # VISSL's RotNet and Jigsaw, SGD for a ResNet; a transformer keeps MoCo v3's AdamW
    ("rotnet", "auto", "imagenet"): ("sgd", 0.2, 1e-4, 0.6, 0.5, 0.0, 0.0, 0.0, {}),
    ("rotnet", SMALL, "vit"): ("adamw", 3e-4, 0.1, 0.6, 0.5, 0.0, 0.0, 0.0, {}),
    ("jigsaw", "auto", "imagenet"): ("sgd", 0.2, 1e-4, 0.6, 0.5, 0.0, 0.66, 0.0, {"grid": 3}),
    ("jigsaw", SMALL, "vit"): ("adamw", 3e-4, 0.1, 0.6, 0.5, 0.0, 0.66, 0.0, {"grid": 3}),
    ("relative_position", SMALL, "vit"): ("adamw", 3e-4, 0.1, 0.6, 0.5, 0.0, 0.66, 0.0, {"grid": 3}),
    # NPID's code for ImageNet, PIRL, section 3.3
    ("npid", SMALL, "vit"): (
        "adamw", 3e-4, 0.1, 0.2, 0.5, 1.0, 0.2, 0.0, {"temperature": 0.07, "bank_negatives": 4096},
    ),
    ("pirl", SMALL, "vit"): (
        "adamw", 3e-4, 0.1, 0.08, 0.5, 0.8, 0.2, 0.5, {"bank_negatives": 32000, "grid": 3},
    ),
    # Deep InfoMax's deep_infomax.py; the decoders' rates are ours
    ("deep_infomax", "auto", "imagenet"): ("adamw", 1e-4, 1e-6, 0.6, 0.5, 0.0, 0.0, 0.0, {"units": 2048}),
    ("deep_infomax", SMALL, "vit"): ("adamw", 1e-4, 1e-6, 0.6, 0.5, 0.0, 0.0, 0.0, {"stride": 16}),
    ("dae", SMALL, "vit"): ("adamw", 1e-3, 1e-6, 0.6, 0.5, 0.0, 0.0, 0.0, {}),
    ("vae", SMALL, "vit"): ("adamw", 1e-3, 1e-6, 0.6, 0.5, 0.0, 0.0, 0.0, {}),
    # BiGAN's train_gan.py; van den Oord et al. 2018, section 3.2, and Adam's rate for sound; CSI's code
    ("bigan", SMALL, "vit"): ("adamw", 2e-4, 2.5e-5, 0.6, 0.5, 0.0, 0.0, 0.0, {"latent": 200}),
    ("cpc_images", SMALL, "vit"): (
        "adamw", 2e-4, 1e-6, 0.6, 0.5, 0.0, 0.66, 0.0, {"grid": 7, "rows_below": 4},
    ),
    ("csi", SMALL, "vit"): ("adamw", 7.5e-5, 0.1, 0.08, 0.5, 0.8, 0.2, 0.0, {}),
}  # fmt: skip


@pytest.mark.parametrize(("method", "encoder", "recipe"), TASKS)
def test_recipes_on_a_gpu_are_the_authors(method: str, encoder: str, recipe: str) -> None:
    optimizer, rate, decay, crop, flip, jitter, grey, blur, own = TASKS[method, encoder, recipe]
    gpu = torch.device("cuda")
    wanted = resolve.resolve(method, "auto", {"encoder": encoder}, side=300, device=gpu)
    assert wanted.recipe == recipe and encoder in ("auto", wanted.training.encoder)
    assert wanted.training.optimizer == optimizer
    assert (wanted.lr, wanted.training.weight_decay) == pytest.approx((rate, decay))
    v = wanted.views
    assert (v.crop_min, v.flip, v.jitter, v.grayscale, v.blur) == (crop, flip, jitter, grey, blur)
    assert {name: getattr(wanted.settings, name) for name in own} == own


def test_swavs_queue_and_frozen_prototypes_are_the_scripts() -> None:
    for recipe, start, still in (
        ("imagenet", 0.15, 0.01),
        ("cifar-short", 0.15, 0.02),
        ("cifar-long", 0.015, 0.002),
    ):
        wanted, module = built("swav", recipe)
        own = wanted.settings
        assert (own.queue, own.queue_start, own.freeze_last_layer) == pytest.approx((3840, start, still))
        assert own.prototypes == 3000 < wanted.training.batch_size + own.queue
        assert module.frozen_at(0.0) == ("prototypes",) and module.frozen_at(still) == ()


def test_a_vision_transformer_gets_its_own_recipe_or_is_refused() -> None:
    gpu = torch.device("cuda")
    for encoder, recipe in (
        ("vit_small_patch16_224", "vit"),
        ("timm:deit_small_patch16_224", "vit"),
        ("resnet50", "imagenet"),
    ):
        wanted = resolve.resolve("mocov3", "auto", {"encoder": encoder}, side=300, device=gpu)
        assert wanted.recipe == recipe and wanted.training.encoder == encoder
    with pytest.raises(NearfarError, match="add --recipe vit"):
        resolve.resolve("mocov3", "imagenet", {"encoder": "vit_small_patch16_224"}, side=300, device=gpu)
    assert not any(map(recipes.is_transformer, ("resnet50", "auto", "convnext_tiny", "vitamin_small")))


@pytest.mark.parametrize("method", ["mae", "simmim", "beit", "ijepa", "ibot"])
def test_a_recipe_of_transformers_serves_any_transformer(method: str) -> None:
    gpu = torch.device("cuda")
    small = resolve.resolve(method, "auto", {"encoder": "vit_w64_d2"}, side=32, device=gpu)
    assert (small.recipe, small.training.encoder) == ("cifar-short", "vit_w64_d2")
    usual = resolve.resolve(method, "auto", {}, side=32, device=gpu)
    assert small.views == usual.views and small.settings == usual.settings
    large = resolve.resolve(method, "imagenet", {"encoder": "vit_large_patch16_224"}, side=300, device=gpu)
    assert large.training.encoder == "vit_large_patch16_224"
    assert resolve.resolve("mocov3", "auto", {"encoder": "vit_w64_d2"}, side=32, device=gpu).recipe == "vit"


def test_colours_of_csi_and_npid_are_the_authors() -> None:
    for method, colours in (("csi", (0.4, 0.4, 0.4, 0.1)), ("npid", (0.4, 0.4, 0.4, 0.4))):
        for recipe in ("cifar-short", "imagenet", "vit"):
            side = 32 if recipe == "cifar-short" else 300
            v = resolve.resolve(method, recipe, {}, side=side, device=torch.device("cuda")).views
            assert (v.brightness, v.contrast, v.saturation, v.hue) == colours
            assert (v.grayscale, v.blur) == (0.2, 0.0)


def test_views_are_cut_from_larger_images_than_they_are() -> None:
    for recipe in ("imagenet", "vit"):
        training = recipes.RECIPES[recipe](500).training
        assert training.short_side is not None and training.short_side >= 400 and training.image_size == 224

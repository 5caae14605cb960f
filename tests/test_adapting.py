"""Training that starts from given weights: what of the encoder changes, how fast, and whether it paid."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

import nearfar
from nearfar import models
from nearfar.core.errors import NearfarError
from nearfar.evaluation import known_row
from nearfar.health.verdict import judge
from nearfar.text.bert import BertNetwork
from nearfar.training import adapting, optim, resolve
from nearfar.training.run import load
from nearfar.training.settings import Training

TINY: dict[str, Any] = {
    "steps": 3,
    "batch_size": 8,
    "image_size": 32,
    "precision": "float32",
    "workers": 1,
    "threads": 1,
    "health_checks": 0,
    "holdout": 0.0,
    "device": "cpu",
    "head": (16, 8),
}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    with models.seeded(3, "start"):
        net = models.encoder("timm:test_vit", stem="standard", size=32).net
    safetensors.torch.save_file(net.state_dict(), path)
    return f"timm:test_vit@32={path}"


def vit() -> models.Encoder:
    with models.seeded(0, "vit"):
        return models.encoder("timm:test_vit", stem="standard", size=32)


def trained(f: nn.Module) -> set[str]:
    return {name for name, weight in f.named_parameters() if weight.requires_grad}


def test_each_way_trains_what_it_names() -> None:
    found = {}
    for what in ("all", "norms", "last:1", "last:2", "lora:2"):
        f = vit()
        adapting.choose(f, what)
        found[what] = trained(f)
    everything = {name for name, _ in vit().named_parameters()}
    assert found["all"] == everything
    assert found["norms"] == {name for name in everything if "norm" in name}
    blocks = sorted({name.split(".")[2] for name in everything if name.startswith("net.blocks.")})
    last = {name for name in everything if f"blocks.{blocks[-1]}." in name or name.startswith("net.norm")}
    assert found["last:1"] == last
    two = {name for name in everything if f"blocks.{blocks[-2]}." in name}
    assert found["last:2"] == last | two
    assert found["lora:2"] and all(name.endswith((".a", ".b")) for name in found["lora:2"])


@pytest.mark.parametrize("what", ["some", "last:0", "lora", "last:-1", "lora:2.5"])
def test_what_is_no_way_is_refused(what: str) -> None:
    with pytest.raises(NearfarError, match="write all, none, norms, last:K or lora:R"):
        adapting.choose(vit(), what)


def test_a_way_needs_weights(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(NearfarError, match="name them with --weights"):
        nearfar.pretrain(photos, out=tmp_path / "a", trainable="norms", **TINY)


def test_low_rank_additions_begin_as_nothing_and_are_merged_into_plain_weights() -> None:
    x = torch.rand(2, 3, 32, 32)
    for name in ("timm:test_vit", "resnet10_w16"):
        with models.seeded(0, "f"):
            f = models.encoder(name, stem="standard", size=32).eval()
        before, names = f(x), set(f.state_dict())
        adapting.choose(f, "lora:2")
        torch.testing.assert_close(f(x), before)
        with torch.no_grad():
            for key, weight in f.named_parameters():
                if key.endswith(".b"):
                    weight.normal_()
        after, plain = f(x), adapting.merged(f)
        assert not torch.allclose(after, before)
        torch.testing.assert_close(plain(x), after)
        assert set(plain.state_dict()) == names and set(f.state_dict()) != names


def test_layers_near_the_image_learn_less() -> None:
    f = vit()
    shares = adapting.rates(f, Training(encoder_rate=0.1, rate_decay=0.5))
    depth = adapting.layers(f)
    last = max(depth.values())
    assert shares["net.norm.weight"] == pytest.approx(0.1) and depth["net.norm.weight"] == last
    assert shares["net.blocks.0.attn.qkv.weight"] == pytest.approx(
        0.1 * 0.5 ** (last - depth["net.blocks.0.attn.qkv.weight"])
    )
    order = [depth[f"net.blocks.{number}.norm1.weight"] for number in range(3)]
    assert order == sorted(set(order)) and depth["net.patch_embed.proj.weight"] < order[0]


def stacked(kind: str) -> nn.Module:
    """Networks whose blocks lie in a part of theirs, as libraries build them."""
    if kind == "torchvision":
        from torchvision.models import VisionTransformer

        net: nn.Module = VisionTransformer(32, 8, num_layers=3, num_heads=2, hidden_dim=8, mlp_dim=8)
        return models.Encoder(net, 8, "vit", "standard", 32)
    heads: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2}
    if kind == "clip":
        sides = {"intermediate_size": 8, "image_size": 32, "patch_size": 8, "layer_norm_eps": 1e-5}
        config = {**heads, **sides, "hidden_act": "gelu", "class_token": 1}
        return models.encoder("clip_image", size=32, args=config)
    return BertNetwork({**heads, "intermediate_size": 8, "vocab_size": 9, "max_position_embeddings": 4})


@pytest.mark.parametrize("kind", ["torchvision", "clip", "bert"])
def test_blocks_within_a_part_are_layers_of_their_own(kind: str) -> None:
    f: Any = stacked(kind)
    depth = adapting.layers(f)
    found = [name for name in depth if re.search(r"layers?\.(encoder_layer_)?\d", name)]
    blocks = {re.search(r"\d", name)[0]: depth[name] for name in found}  # type: ignore[index]
    assert list(blocks.values()) == list(range(blocks["0"], blocks["0"] + 3))
    before = {at for name, at in depth.items() if "embed" in name}
    assert max(before) < blocks["0"]
    f.name = kind
    adapting.choose(f, "last:1")
    names = {name for name in depth if depth[name] >= blocks["2"]}
    assert trained(f) == names and not any(name in names for name in found if depth[name] < blocks["2"])


def test_the_last_block_of_a_network_is_no_norm() -> None:
    f = models.encoder("resnet8")
    adapting.choose(f, "last:1")
    assert "net.blocks.2.conv1.weight" in trained(f) and "net.blocks.1.conv1.weight" not in trained(f)
    f = models.encoder("timm:regnetx_002")  # whose blocks are in no list
    adapting.choose(f, "last:2")
    assert {name.split(".")[1] for name in trained(f)} == {"s3", "s4"}


@pytest.mark.parametrize("name", ["muon", "adamw", "sgd", "lars"])
def test_an_optimizer_takes_the_shares(name: str) -> None:
    module = nn.Module()
    module.f, module.g = vit(), nn.Linear(64, 2)  # type: ignore[assignment]
    plain = optim.optimizer(Training(optimizer=name), module)
    found = optim.optimizer(Training(optimizer=name, encoder_rate=0.1), module)
    (head,) = [group for group in found.param_groups if module.g.weight in set(group["params"])]  # type: ignore[union-attr]
    assert head["lr_scale"] == 1.0 and len(found.param_groups) > len(plain.param_groups)
    slow = [group for group in found.param_groups if module.f.net.norm.weight in set(group["params"])]  # type: ignore[union-attr]
    assert slow[0]["lr_scale"] == pytest.approx(0.01 if name == "muon" else 0.1)


def test_settings_are_gentle_where_weights_are_given(start: str) -> None:
    def settings(**asked: Any) -> Training:
        how = {"side": 32, "device": torch.device("cpu")}
        return resolve.resolve("simclr", "cpu", {"steps": 1, **asked}, **how).training

    fresh, gentle, asked = settings(), settings(weights=start), settings(weights=start, encoder_rate=1.0)
    assert (fresh.head_warmup, fresh.encoder_rate, fresh.rate_decay) == (0.0, 1.0, 1.0)
    assert (gentle.head_warmup, gentle.encoder_rate, gentle.rate_decay) == (0.1, 0.1, 0.8)
    assert (asked.encoder_rate, asked.rate_decay) == (1.0, 0.8)


def test_batch_norms_keep_the_statistics_of_the_start(photos: Path, tmp_path: Path) -> None:
    first = nearfar.pretrain(photos, out=tmp_path / "start", encoder="resnet10_w16", **TINY)
    before = first.encoder.state_dict()
    how = {**TINY, "weights": str(tmp_path / "start"), "head_warmup": 0.0}
    for frozen in (None, False):
        run = nearfar.pretrain(photos, out=tmp_path / f"{frozen}", freeze_statistics=frozen, **how)
        after = run.encoder.state_dict()
        same = {name: torch.equal(before[name], after[name]) for name in before}
        measured = [equal for name, equal in same.items() if ".bn" in name and "running" in name]
        assert measured and all(equal is (frozen is None) for equal in measured)
        assert not same["net.blocks.0.conv1.weight"]
    for name in adapting.NEED_START:
        flag = "--" + name.replace("_", "-")
        with pytest.raises(NearfarError, match=f"^{flag} is for training that starts from weights"):
            nearfar.pretrain(photos, out=tmp_path / "c", **{name: 1}, **TINY)


def test_a_name_that_is_nothing_says_what_can_be_named(photos: Path, tmp_path: Path) -> None:
    for name in ("knwn", "runs/typo"):
        with pytest.raises(NearfarError, match=f"^weights '{name}' are no .* such as known"):
            nearfar.pretrain(photos, out=tmp_path / "a", weights=name, **TINY)
    for encoder, instead in (("auto", "timm:resnet18"), ("resnet50", "torchvision:resnet50")):
        with pytest.raises(NearfarError, match=f"of which network; write --weights {instead} instead"):
            nearfar.pretrain(photos, out=tmp_path / "a", weights="pretrained", **{**TINY, "encoder": encoder})
    assert not (tmp_path / "a").exists()


def test_a_known_encoder_is_adapted_at_its_own_size(start: str) -> None:
    def settings(recipe: str, **asked: Any) -> tuple[int | None, int, str]:
        how: dict[str, Any] = {"side": 300, "device": torch.device("cpu")}
        found = resolve.resolve("simclr", recipe, {"steps": 1, **asked}, **how).training
        return found.image_size, found.batch_size, found.trainable

    assert settings("cpu") == (64, 256, "all")
    assert settings("cpu", weights=start) == (32, 64, "last:2")
    assert settings("imagenet", weights=start) == (32, 512, "all")
    assert settings("cpu", weights=start.replace("@32", "@320")) == (224, 64, "last:2")
    assert settings("cpu", weights=start, image_size=48, batch_size=8, trainable="all") == (48, 8, "all")


def test_an_adapted_encoder_sees_as_much_of_an_image_as_before(photos: Path, tmp_path: Path) -> None:
    place = tmp_path / "squashes"
    place.mkdir()
    safetensors.torch.save_file(vit().net.state_dict(), place / "model.safetensors")
    said = {"input_size": [3, 32, 32], "crop_pct": 0.8, "crop_mode": "squash", "interpolation": "bilinear"}
    (place / "config.json").write_text(json.dumps({"architecture": "test_vit", "pretrained_cfg": said}))
    own, seen = load(place).preprocess, ("crop", "short_side", "reduction", "fit")
    assert [getattr(own, name) for name in seen] == [0.8, 40, "bilinear", "squash"]
    made = nearfar.pretrain(photos, out=tmp_path / "a", weights=str(place), **TINY)
    again = nearfar.pretrain(photos, out=tmp_path / "a", weights=str(place), **TINY)  # as config.json has it
    for run in (made, again, load(tmp_path / "a")):
        assert [getattr(run.preprocess, name) for name in seen] == [0.8, 40, "bilinear", "squash"]
    larger = nearfar.pretrain(photos, out=tmp_path / "b", weights=str(place), **{**TINY, "image_size": 48})
    assert (larger.preprocess.crop, larger.preprocess.short_side) == (0.8, 60)


def test_heads_learn_while_the_encoder_is_still(start: str, photos: Path, tmp_path: Path) -> None:
    before = load(start).encoder.state_dict()
    still = nearfar.pretrain(photos, out=tmp_path / "a", weights=start, head_warmup=1.0, **TINY)
    after = still.encoder.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    heads = still.part("g")
    moved = nearfar.pretrain(photos, out=tmp_path / "b", weights=start, head_warmup=0.4, **TINY)
    assert not all(torch.equal(before[key], x) for key, x in moved.encoder.state_dict().items())
    no_rate = {**TINY, "lr": 0.0, "weights": start, "head_warmup": 1.0}
    fresh = nearfar.pretrain(photos, out=tmp_path / "c", **no_rate)
    assert not torch.equal(heads["0.weight"], fresh.part("g")["0.weight"])


def test_a_pull_keeps_features_near_those_of_the_start(start: str, photos: Path, tmp_path: Path) -> None:
    how = {**TINY, "steps": 8, "weights": start, "head_warmup": 0.0, "encoder_rate": 1.0, "rate_decay": 1.0}
    x = torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before, near = load(start).encoder.eval()(x).detach(), []
    for pull in (0.0, 30.0):
        run = nearfar.pretrain(photos, out=tmp_path / f"{pull}", start_pull=pull, **how)
        now = run.encoder.eval()(x).detach()
        near.append(float(torch.cosine_similarity(now, before).mean()))
    assert near[1] > near[0] + 0.02
    whole = (tmp_path / "30.0" / "encoder.safetensors").read_bytes()
    for name in ("encoder.json", "encoder.safetensors"):
        (tmp_path / "30.0" / name).unlink()
    nearfar.pretrain(photos, out=tmp_path / "30.0", start_pull=30.0, **how)
    assert (tmp_path / "30.0" / "encoder.safetensors").read_bytes() == whole
    with pytest.raises(NearfarError, match="--start-pull is for training that starts from weights"):
        nearfar.pretrain(photos, out=tmp_path / "c", start_pull=1.0, **TINY)


def test_a_run_with_additions_leaves_a_plain_encoder_and_resumes(
    start: str, photos: Path, tmp_path: Path
) -> None:
    how = {**TINY, "weights": start, "trainable": "lora:2", "head_warmup": 0.0, "out": tmp_path / "a"}
    run = nearfar.pretrain(photos, **how)
    before, after = load(start).encoder.state_dict(), run.encoder.state_dict()
    assert before.keys() == after.keys()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed and all(key.endswith("weight") for key in changed)
    whole = (tmp_path / "a" / "encoder.safetensors").read_bytes()
    for name in ("encoder.json", "encoder.safetensors"):
        (tmp_path / "a" / name).unlink()
    nearfar.pretrain(photos, **how)
    assert (tmp_path / "a" / "encoder.safetensors").read_bytes() == whole


def test_the_start_is_a_row_of_the_evaluation(start: str, photos: Path, tmp_path: Path) -> None:
    run = nearfar.pretrain(photos, out=tmp_path / "a", weights=start, **TINY)
    row, reason = known_row.open_row(run, None, 100)
    assert row is not None and row.name == start and not reason
    assert known_row.open_row(run, None, 10**6)[0] is None
    assert known_row.open_row(run, "none", 100)[0] is None


def test_a_run_that_is_worse_than_its_start_is_told_so() -> None:
    def verdict(knn: str, linear: str, start: str = "known") -> str:
        summary = {
            name: {"title": name, "against": [{"baseline": "known", "outcome": outcome, "words": outcome}]}
            for name, outcome in (("knn", knn), ("linear", linear))
        }
        evaluation = {"known": "known", "summary": summary, "data": {"test": "x"}}
        found = judge([], evaluation=evaluation, start=start)
        return found.name if found else ""

    assert verdict("worse", "no different") == "worse than its start"
    assert verdict("worse", "better") == verdict("no different", "no different") == ""
    assert verdict("worse", "worse", start="known/") == "worse than its start"
    assert verdict("worse", "worse", start="") == verdict("worse", "worse", start="timm:resnet18") == ""


def test_additions_draw_the_same_for_the_same_seed(start: str) -> None:
    def state(seed: int) -> dict[str, torch.Tensor]:
        asked = {"steps": 1, "weights": start, "trainable": "lora:2", "seed": seed}
        wanted = resolve.resolve("simclr", "cpu", asked, side=32, device=torch.device("cpu"))
        return resolve.build_method(wanted).state_dict()

    one, again, other = state(0), state(0), state(1)
    name = next(key for key in one if key.endswith(".a"))
    assert torch.equal(one[name], again[name]) and not torch.equal(one[name], other[name])
    assert np.isfinite(one[name].numpy()).all()

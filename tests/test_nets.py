"""Encoders by name, their stems, weights and seeds; heads; batch norm over processes."""

import copy

import processes
import pytest
import safetensors.torch
import torch
from torch import nn

from nearfar import models
from nearfar.core.errors import NearfarError
from nearfar.features.extract import fingerprint
from nearfar.models import libraries
from nearfar.models.residual import SHAPES
from nearfar.models.transformer import TRANSFORMERS

SOME = [
    *SHAPES,
    *TRANSFORMERS,
    "resnet18",
    "timm:resnet18d",
    "densenet121",
    "squeezenet1_1",
    "mobilenet_v3_small",
    "shufflenet_v2_x0_5",
    "vit_b_16",
    "swin_t",
    "vgg11",
    "timm:vit_tiny_patch16_224",
    "timm:test_convnext",
    "timm:test_efficientnet",
    "resnetv2_18",
]


@pytest.mark.parametrize("name", SOME)
def test_every_kind_of_name_gives_rows_of_dim_numbers(name):
    f = models.encoder(name, size=64).eval()
    with torch.no_grad():
        h = f(torch.rand(2, 3, 64, 64))
    assert h.shape == (2, f.dim) and torch.isfinite(h).all()
    assert not torch.equal(h[0], h[1])
    assert not any(isinstance(part, nn.Dropout) and part.p for part in f.modules())


def test_the_table_of_names_holds_ours_and_both_libraries():
    known = models.names()
    assert {"resnet10_w32", "resnet50", "vit_b_16", "vit_small_patch16_224"} <= set(known)
    assert len(known) > 1000 and len(known) == len(set(known))


def test_a_name_known_to_both_libraries_can_be_forced():
    assert libraries.find("resnet50") == ("torchvision", "resnet50")
    assert libraries.find("timm:resnet50") == ("timm", "resnet50")
    assert libraries.find("vit_tiny_patch16_224.augreg_in21k")[0] == "timm"


@pytest.mark.parametrize(
    ("name", "hint"), [("resnet81", "resnet18"), ("timm:resnet5", "resnet50"), ("keras:vgg", "timm:vgg")]
)
def test_an_unknown_name_is_answered_with_the_nearest(name, hint):
    with pytest.raises(NearfarError, match=hint):
        models.encoder(name)


@pytest.mark.parametrize("name", ["resnet18", "timm:resnet18", "resnet10t", "resnetv2_18", "densenet121"])
def test_small_stem_keeps_the_side_and_standard_quarters_it(name):
    sides = {}
    for stem in ("small", "standard"):
        f = models.encoder(name, stem=stem).eval()
        shapes: list[int] = []
        for part in f.modules():
            if isinstance(part, nn.Conv2d):
                part.register_forward_hook(lambda _, __, y, shapes=shapes: shapes.append(y.shape[-1]))
        with torch.no_grad():
            f(torch.rand(1, 3, 32, 32))
        assert f.stem == stem
        sides[stem] = shapes[0], shapes[-1]
    assert sides == {"small": (32, 4), "standard": (16, 1)}


def test_stem_auto_follows_size_and_network():
    assert models.encoder("resnet18", size=32).stem == "small"
    assert models.encoder("resnet18", size=65).stem == "standard"
    assert models.encoder("resnet18").stem == "standard"
    assert models.encoder("resnet10_w32", size=32).stem == "standard"
    assert models.encoder("resnet10_w32", size=32, stem="small").net.conv1.stride == (1, 1)
    assert models.encoder("timm:test_convnext", size=32).stem == "standard"
    with pytest.raises(NearfarError, match="--stem standard"):
        models.encoder("timm:test_convnext", size=32, stem="small")


@pytest.mark.parametrize("name", ["resnet10_w16", "resnet18", "timm:resnet18"])
def test_residual_blocks_start_as_their_shortcut(name):
    last = [p for key, p in models.encoder(name).named_parameters() if key.endswith("bn2.weight")]
    assert last and all(p.eq(0).all() for p in last)


def test_the_seed_alone_names_the_weights():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one = models.encoder("resnet10_w16", seed=3).state_dict()
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(2)
    two = models.encoder("resnet10_w16", seed=3).state_dict()
    other = models.encoder("resnet10_w16", seed=4).state_dict()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not torch.equal(one["net.conv1.weight"], other["net.conv1.weight"])


def test_weights_come_from_a_file_and_must_fit(tmp_path):
    f = models.encoder("resnet18", stem="small", seed=1)
    plain = {**f.net.state_dict(), "fc.weight": torch.zeros(10, 512)}
    safetensors.torch.save_file(f.state_dict(), tmp_path / "encoder.safetensors")
    safetensors.torch.save_file(plain, tmp_path / "plain.safetensors")
    for file in ("encoder.safetensors", "plain.safetensors"):
        g = models.encoder("resnet18", stem="small", weights=str(tmp_path / file))
        assert all(torch.equal(a, b) for a, b in zip(f.parameters(), g.parameters(), strict=True))
    with pytest.raises(NearfarError, match=r"do not fit 'resnet18' with stem 'standard'.*conv1"):
        models.encoder("resnet18", weights=str(tmp_path / "plain.safetensors"))
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "plain.safetensors").read_bytes()[:1000])
    wrong = {"cut.safetensors": "cannot be read", "no.safetensors": "no such file", "x.pt": "pickle"}
    for file, word in wrong.items():
        with pytest.raises(NearfarError, match=word):
            models.encoder("resnet18", stem="small", weights=str(tmp_path / file))


def test_weights_bring_the_normalization_that_they_were_trained_with(tmp_path):
    import timm.data

    name = "vit_base_patch16_clip_224"  # with figures of its own, not ImageNet's
    config = timm.data.resolve_data_config({}, pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    assert libraries.input_config("timm", name).mean == tuple(config["mean"])
    assert libraries.input_config("timm", name).std == tuple(config["std"])
    name = "timm:vit_tiny_patch16_224"
    config = timm.data.resolve_data_config({}, pretrained_cfg=timm.get_pretrained_cfg(name[5:]).to_dict())
    assert config["mean"] == (0.5, 0.5, 0.5)
    random = models.encoder(name, size=32)
    assert (random.mean, random.std) == ((0, 0, 0), (1, 1, 1)) and "normalization" not in random.state_dict()
    safetensors.torch.save_file(random.net.state_dict(), tmp_path / "theirs.safetensors")
    f = models.encoder(name, size=32, weights=str(tmp_path / "theirs.safetensors")).eval()
    x = torch.rand(2, 3, 32, 32)
    theirs = timm.data.create_transform(**{**config, "input_size": (3, 32, 32), "crop_pct": 1.0}).transforms[
        -1
    ]
    with torch.no_grad():
        torch.testing.assert_close(f(x), f.net(theirs(x)))
        torch.testing.assert_close(f.tokens(x).prefix[:, 0], f(x))
        torch.testing.assert_close(f.maps(x)[0].flatten(2).transpose(1, 2), f.tokens(x).patches)
    # Once wrapped, the file says it itself, other figures than the library's too.
    own = models.encoder(name, size=32, mean=(0.48145466, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    safetensors.torch.save_file(own.state_dict(), tmp_path / "ours.safetensors")
    again = models.encoder(name, size=32, weights=str(tmp_path / "ours.safetensors"))
    assert torch.equal(again.normalization, own.normalization)  # to the last bit of float32
    safetensors.torch.save_file(random.state_dict(), tmp_path / "plain.safetensors")
    plain = models.encoder(name, size=32, weights=str(tmp_path / "plain.safetensors"))
    assert (plain.mean, plain.std) == (random.mean, random.std) and fingerprint(plain) == fingerprint(random)
    assert fingerprint(own) != fingerprint(random)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_googlenets_own_normalization_is_what_torchvision_makes_of_imagenets(name):
    import torchvision.models

    net = torchvision.models.get_model(name, weights=None, transform_input=True, init_weights=False)
    x = torch.rand(2, 3, 8, 8)
    own = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    theirs = net._transform_input(
        (x - torch.tensor(own.mean).view(3, 1, 1)) / torch.tensor(own.std).view(3, 1, 1)
    )
    config = libraries.input_config("torchvision", name)
    f = models.Encoder(nn.Identity(), 3, name, "standard", None, config.mean, config.std)
    torch.testing.assert_close(f(x), theirs)


def test_without_mean_and_deviation_nothing_is_computed():
    f = models.Encoder(nn.Identity(), 3, "same", "standard", None)
    x = torch.rand(2, 3, 4, 4)
    assert f(x) is x and list(f.state_dict()) == []


def test_pretrained_where_there_is_none_is_refused_before_any_download():
    none = "there are no pretrained weights for '{}'"
    for name, stem, says in [
        ("resnet10_w32", "auto", none.format("resnet10_w32")),
        ("timm:resnet10t", "small", "--stem"),
        ("timm:resnet50t", "auto", none.format("resnet50t")),
    ]:
        with pytest.raises(NearfarError, match=says):
            models.encoder(name, stem=stem, weights="pretrained")
    with pytest.raises(NearfarError, match="--image-size 224"):
        models.encoder("vit_b_16", size=32, weights="pretrained")


def test_a_failed_download_is_a_sentence():
    sentence = r"could not be downloaded \(no route\).*\.safetensors"
    with pytest.raises(NearfarError, match=sentence), libraries.fetching("x"):
        raise OSError("no route\nat all")


def test_head_has_the_shape_of_the_paper():
    g = models.mlp(8, 16, 4)
    assert [type(part).__name__ for part in g] == ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d"]
    assert not g[4].bias.requires_grad and g[1].bias.requires_grad and g[0].bias is None
    assert g(torch.rand(5, 8)).shape == (5, 4)
    assert models.mlp(8, 4, last_norm=False)[-1].bias is not None


def test_alone_batch_norm_is_left_as_it_is():
    g = models.mlp(8, 16, 4)
    assert models.sync_batchnorm(g) is g and isinstance(g[1], nn.BatchNorm1d)


@pytest.mark.parametrize("kind", ["BatchNorm2d", "BatchNormAct2d"])
def test_our_batch_norm_takes_the_place_of_torch_and_timm_ones(kind):
    import timm.layers

    torch.manual_seed(0)
    theirs = getattr(nn, kind, None) or getattr(timm.layers, kind)
    norm = theirs(4, eps=1e-3, momentum=0.3).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    ours = models.GlobalBatchNorm(copy.deepcopy(norm))
    for training in (True, True, False):
        norm.train(training)
        ours.train(training)
        x = torch.randn(5, 4, 3, 2, dtype=torch.float64)
        torch.testing.assert_close(ours(x), norm(x), rtol=0, atol=1e-12)
    assert ours.state_dict().keys() == norm.state_dict().keys()
    for key, value in norm.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value)


def test_batch_norm_over_two_processes_equals_one():
    one, two = processes.one("batchnorm"), processes.two("batchnorm")
    for name in ("y", "grad", "eval"):
        torch.testing.assert_close(torch.cat([part[name] for part in two]), one[name], rtol=0, atol=1e-12)
    states = [name for name in one if name.startswith("state.")]
    assert len(states) == 12
    for name in states:
        torch.testing.assert_close(two[0][name], one[name], rtol=0, atol=1e-12)
        assert torch.equal(two[0][name], two[1][name])

"""An encoder leaves for other tools: each opens it, and gives the same vectors on pictures of any shape."""

import importlib.util
import io
import json
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import nearfar
from benchmarks.exports import cosines, prepared_by_the_card
from nearfar import models
from nearfar.cli.main import main
from nearfar.core.errors import NearfarError
from nearfar.exports import FORMATS, card, onnx, openvino_ir, pipeline_check
from nearfar.images.decode import decode
from nearfar.images.views import Preprocess
from nearfar.models import every_scale, folders, known
from nearfar.queries.export import ENCODERS
from nearfar.training.run import Run, export, load

SHAPES = [(90, 61), (40, 100), (33, 32), (20, 27), (74, 111)]  # heights and widths, reduced or not


def a_run(folder: Path, name: str, size: int = 32, plan: Preprocess | None = None) -> Path:
    """Write a finished run of an untrained network whose batch norms are not at their start."""
    encoder = every_scale.finished(models.encoder(name, size=size, stem="standard", seed=3)).train()
    with torch.no_grad():
        encoder(torch.rand(8, 3, size, size, generator=torch.Generator().manual_seed(0)))
    folder.mkdir()
    made = {"nearfar": "0", "method": "simclr", "data": {"images": 12}, "steps": 2, "batch_size": 4}
    export(folder, encoder.eval(), plan or Preprocess.of(size, "bilinear"), made)
    return folder


def pictures() -> list[np.ndarray]:
    """Draw smooth pictures that are not square."""
    r = np.random.default_rng(0)
    found = []
    for high, wide in SHAPES:
        small = Image.fromarray(r.integers(0, 256, (6, 6, 3), np.uint8))
        found.append(np.asarray(small.resize((wide, high), Image.Resampling.BICUBIC)))
    return found


def smalls(folder: Path) -> Path:
    """Write a run of a torchvision ResNet with our first layer for small images."""
    encoder = models.encoder("torchvision:resnet18", size=32, seed=3).eval()
    folder.mkdir()
    export(folder, encoder, Preprocess.of(32, "bilinear"), {"nearfar": "0", "source": "a test"})
    return folder


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_run(tmp_path_factory.mktemp("runs") / "ours", "resnet10_w16")


def test_onnx_gives_the_vectors_of_encode_from_the_pixels_of_any_picture(ours: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    made = nearfar.export(ours, to="onnx", out=tmp_path / "made")
    assert made.files == ("README.md", "encoder.onnx", "pipeline.onnx") and made.difference < 1e-5
    assert 0.9999 < made.pipeline_cosine <= 1 and f"cosine of at least {made.pipeline_cosine:.6f}" in str(
        made
    )
    said = (made.path / "README.md").read_text()
    assert (
        f"pipeline.onnx, from a picture to its vector: a cosine of at least {made.pipeline_cosine:.6f}"
        in said
    )
    session = onnxruntime.InferenceSession(str(tmp_path / "made" / "pipeline.onnx"))
    run = load(ours)
    for picture in pictures():
        theirs = session.run(None, {"picture": picture[None]})[0][0]
        wanted = run.encode(picture)
        assert cosines(theirs[None], wanted[None]) > 0.9999, picture.shape


@pytest.mark.parametrize("to", ["onnx", "transformers"])
def test_a_picture_that_is_squashed_here_is_squashed_there(to: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime" if to == "onnx" else to)
    plan = Preprocess(32, 0.8, "bilinear", short_side=40, reduction="bilinear", fit="squash")
    folder = a_run(tmp_path / "run", "resnet10_w16", plan=plan)
    made = nearfar.export(folder, to=to, out=tmp_path / "made")  # compares whole pictures
    assert made.pipeline_cosine is not None and made.pipeline_cosine > 0.9999
    text = (tmp_path / "made" / "README.md").read_text()
    assert "a side is over 40 px, reduce that side alone to that, antialiased bilinear" in text
    # Both sides by themselves, and of the 40 x 40 px the middle 32 x 32.
    picture = Image.fromarray(pictures()[0])
    middle = np.asarray(picture.resize((40, 40), Image.Resampling.BILINEAR))[4:36, 4:36]
    run = load(folder)
    with torch.inference_mode():
        wanted = run.encoder(torch.from_numpy(middle.astype(np.float32) / 255).permute(2, 0, 1)[None])
    assert np.allclose(run.encode(np.asarray(picture)), wanted.numpy()[0], atol=1e-4)


def test_a_graph_that_prepares_pictures_in_another_way_is_refused(
    ours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    init = onnx.Pipeline.__init__

    def nearly(self: onnx.Pipeline, run: Run, network: torch.nn.Module) -> None:
        init(self, run, network)
        self.crop = [1, 2]  # the middle of the square alone

    monkeypatch.setattr(onnx.Pipeline, "__init__", nearly)
    with pytest.raises(NearfarError, match=r"pipeline\.onnx gives other vectors than nearfar of pictures"):
        nearfar.export(ours, to="onnx", out=tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_networks_are_compared_on_pictures_that_are_not_square(ours: Path) -> None:
    plan = load(ours).preprocess
    drawn = pipeline_check.pictures(plan)
    assert all(high != wide for high, wide, _ in (picture.shape for picture in drawn))
    assert {min(picture.shape[:2]) > plan.decode_side for picture in drawn} == {True, False}
    x = pipeline_check.prepared(plan, drawn)
    with torch.inference_mode():
        found = load(ours).encoder(x).numpy()
    assert np.allclose(found, load(ours).encode(drawn), atol=1e-5)


@pytest.mark.parametrize("name", ["resnet10_w16", "vit_w64_d2", "timm:test_vit"])
def test_a_torch_program_takes_any_number_of_images(name: str, tmp_path: Path) -> None:
    folder = a_run(tmp_path / "run", name)
    nearfar.export(folder, to="torch", out=tmp_path / "made")
    program = torch.export.load(tmp_path / "made" / "encoder.pt2")
    assert not [node for node in program.graph.nodes if "upsample" in str(node.target)]
    x = torch.rand(5, 3, 32, 32)
    with torch.inference_mode():
        assert torch.allclose(program.module()(x), load(folder).encoder(x), atol=1e-5)


def test_timm_opens_its_own_networks_and_is_told_the_mean(tmp_path: Path) -> None:
    import timm

    folder = a_run(tmp_path / "run", "timm:vit_tiny_patch16_224")
    nearfar.export(folder, to="timm", out=tmp_path / "made")
    net = timm.create_model(f"local-dir:{tmp_path / 'made'}", pretrained=True).eval()
    config = timm.data.resolve_model_data_config(net)
    assert (list(config["mean"]), list(config["std"])) == ([0.0] * 3, [1.0] * 3)
    assert (config["input_size"], config["crop_pct"]) == ((3, 32, 32), 1.0)
    x = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.allclose(net(x), load(folder).encoder(x), atol=1e-5)


def test_timm_finds_the_short_side_by_the_share_it_is_told(tmp_path: Path) -> None:
    plan = Preprocess(60, 60 / 113, short_side=113)
    nearfar.export(a_run(tmp_path / "run", "timm:test_resnet", 60, plan), to="timm", out=tmp_path / "made")
    told = json.loads((tmp_path / "made" / "config.json").read_text())["pretrained_cfg"]
    assert int(60 / told["crop_pct"]) == 113
    assert known.open_folder(tmp_path / "made").preprocess.crop == plan.crop


def test_the_card_says_how_pictures_are_prepared_and_what_was_measured(ours: Path, tmp_path: Path) -> None:
    nearfar.export(ours, to="torch", out=tmp_path / "made")
    text = (tmp_path / "made" / "README.md").read_text()
    assert "Trained by simclr on 12 images" in text and "short side is over 37 px" in text
    assert "It was not evaluated." in text and text.startswith("---\nlibrary_name:")
    # Who follows it with Pillow and NumPy alone gets our vectors.
    program = torch.export.load(tmp_path / "made" / "encoder.pt2").module()
    drawn = [*pictures(), *(picture.repeat(4, 0).repeat(4, 1) for picture in pictures())]
    x = np.stack([prepared_by_the_card(text, picture) for picture in drawn])
    found = program(torch.from_numpy(x)).detach().numpy()
    assert cosines(found, load(ours).encode(drawn)).min() > 0.9999
    file = tmp_path / "large.jpg"
    Image.fromarray(drawn[-1]).save(file)
    with Image.open(file) as image:
        sides = [round(one * 37 / min(image.size)) for one in image.size]
        image.draft(None, (2 * sides[0], 2 * sides[1]))
        assert min(image.size) < 200  # the decoder reduces it first
        small = np.asarray(image.resize(sides, Image.Resampling.BICUBIC, reducing_gap=3))
    alone = program(torch.from_numpy(prepared_by_the_card(text, small)[None])).detach().numpy()
    assert cosines(alone, load(ours).encode(file)[None]) > 0.99999


def card_of(made: dict[str, Any], config: dict[str, Any] | None = None) -> str:
    """Write the card of a small encoder that comes from somewhere."""
    encoder = models.encoder("resnet10_w16", size=16, seed=3).eval()
    run = Run(Path("runs/a"), encoder, Preprocess.of(16), {"nearfar": "0", **made}, config or {})
    return card.text(run, "torch")


def test_the_card_names_a_licence_of_the_hub_and_says_it_in_words() -> None:
    own = {"method": "distill", "data": {"name": "/home/me/photos/", "images": 12, "fingerprint": "abc"}}
    teacher = {"name": "/home/me/runs/big", "licence": "apache-2.0"}
    taught = card_of({**own, "teacher": teacher})
    assert "license: other\nlicense_name: unspecified-teacher-apache-2.0\n" in taught
    assert "Its teacher, big, has the licence apache-2.0." in taught
    assert "- teacher: big, licence apache-2.0" in taught
    assert "license: other\nlicense_name: unspecified\n" in card_of(own)
    started = card_of({**own, "weights": "hf:org/name", "licence": "cc-by-4.0"})
    assert "license: cc-by-4.0\n" in started and 'base_model: "org/name"' in started
    assert "Licence: cc-by-4.0, as that of the weights it began with (hf:org/name)." in started
    unknown = card_of({"source": "timm:resnet18=/home/me/w.safetensors", "licence": "unknown"})
    assert "license_name: unknown" in unknown and "Licence: Not known" in unknown
    assert "A known encoder: timm:resnet18=w.safetensors." in unknown
    assert yaml.safe_load(taught.split("---")[1])["license_name"] == "unspecified-teacher-apache-2.0"
    both = card_of({"source": "combined", "licence": "apache-2.0 and mit"})
    assert "license: other\nlicense_name: apache-2.0-and-mit\n" in both
    assert not [text for text in (taught, started, unknown) if "/home" in text]


@pytest.mark.parametrize(("name", "to"), [("resnet10_w16", "transformers"), ("timm:test_vit", "timm")])
def test_an_export_that_is_opened_again_has_its_licence(name: str, to: str, tmp_path: Path) -> None:
    pytest.importorskip(to)
    encoder = models.encoder(name, size=16, stem="standard", seed=3).eval()
    made = {"nearfar": "0", "source": "a test", "licence": "mit"}
    run = Run(None, encoder, Preprocess.of(16), made, {})
    found = nearfar.export(run, to=to, out=tmp_path / "made")
    if to == "timm":
        assert load(found.path).facts()["licence"] == "mit"
    assert folders.licence(found.path) == "mit"


def test_the_card_says_what_was_trained_on_and_how() -> None:
    made = {"method": "simclr", "steps": 30, "batch_size": 4, "seed": 5, "weights": "runs/start"}
    made["data"] = {"name": ".", "images": 12, "holdout": 2, "fingerprint": "abc"}
    config = {
        "data": {"path": "/home/me/cells"},
        "training": {"device": "cpu", "precision": "bfloat16", "epochs": 10.0},
        "views": {"crop_min": 0.2, "blur": 0.0, "flip": 0.5, "range": None, "keep": True},
    }
    lines = card_of(made, config).splitlines()
    assert "- data: 12 images of cells, 2 of them held out; fingerprint `abc`" in lines
    assert "- began with: the weights of start" in lines and "- epochs: 10.0; seed: 5" in lines
    assert "- views: crop_min 0.2, flip 0.5, keep yes" in lines
    assert "- computed on: cpu, bfloat16" in lines


def test_what_cannot_be_written_is_one_sentence_and_leaves_nothing(ours: Path, tmp_path: Path) -> None:
    for to, words in (("timm", "no network of timm's"), ("csv", "is a run"), ("onx", "nearest")):
        with pytest.raises(NearfarError, match=words if to != "onx" else "is not a format"):
            nearfar.export(ours, to=to, out=tmp_path / "made")
    with pytest.raises(NearfarError, match="is a vector store"):
        nearfar.export("photos.nf", to="onnx")
    (tmp_path / "full").mkdir()
    with pytest.raises(NearfarError, match="already exists"):
        nearfar.export(ours, to="torch", out=tmp_path / "full")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["full"]


def test_from_the_command_line(ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(ours), "--to", "torch", "--out", str(tmp_path / "made"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == ["README.md", "encoder.pt2"]


@pytest.mark.parametrize("name", ["resnet8", "vit_w64_d2", "torchvision:resnet18"])
def test_transformers_opens_networks_that_it_does_not_know_with_their_code(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    small = name.startswith("torchvision")
    folder = smalls(tmp_path / "run") if small else a_run(tmp_path / "run", name)
    made = nearfar.export(folder, to="transformers", out=tmp_path / "made")
    assert made.difference < 1e-5 and "trust_remote_code=True" in made.open_with
    text = (made.path / "README.md").read_text()
    assert 'library_name: "transformers"' in text and "trust_remote_code=True" in text
    for file in made.path.glob("*.py"):
        assert "import nearfar" not in file.read_text() and "from nearfar" not in file.read_text()
    net = transformers.AutoModel.from_pretrained(made.path, trust_remote_code=True).eval()
    prepare = transformers.AutoImageProcessor.from_pretrained(made.path, trust_remote_code=True)
    run = load(folder)
    drawn = pictures()
    with torch.inference_mode():
        x = prepare([Image.fromarray(picture) for picture in drawn], return_tensors="pt")
        found = net(**x).pooler_output.numpy()
    assert cosines(found, run.encode(drawn)).min() > 0.9999


@pytest.mark.parametrize("name", ["timm:vit_tiny_patch16_224", "torchvision:resnet18"])
def test_transformers_opens_networks_of_timm_as_they_are(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = a_run(tmp_path / "run", name)
    made = nearfar.export(folder, to="transformers", out=tmp_path / "made")
    assert made.difference < 1e-5 and "trust_remote_code" not in made.open_with
    assert not list(made.path.glob("*.py"))
    prepare = transformers.AutoImageProcessor.from_pretrained(made.path)
    x = prepare(Image.new("RGB", (40, 32), "white"), return_tensors="pt")["pixel_values"]
    assert x.shape == (1, 3, 32, 32) and bool((x == 1).all())  # mean 0 and deviation 1, not ImageNet's
    again = load(made.path).encoder
    with torch.inference_mode():
        assert torch.allclose(again(x), load(folder).encoder(x), atol=1e-5)


@pytest.mark.parametrize("name", ["resnet10_w16", "timm:vit_tiny_patch16_224"])
def test_sentence_transformers_opens_the_folder_under_its_own_name(name: str, tmp_path: Path) -> None:
    sentences = pytest.importorskip("sentence_transformers")
    folder = a_run(tmp_path / "run", name)
    made = nearfar.export(folder, to="sentence-transformers", out=tmp_path / "made")
    assert made.difference < 1e-5 and "modules.json" in made.files and "SentenceTransformer" in made.open_with
    assert made.pipeline_cosine > (0.9999 if name == "resnet10_w16" else 0.99)
    text = (made.path / "README.md").read_text()
    assert 'library_name: "sentence-transformers"' in text and "SentenceTransformer(" in text
    code = {"trust_remote_code": True} if list(made.path.glob("*.py")) else {}
    model = sentences.SentenceTransformer(str(made.path), device="cpu", **code)
    large = [picture.repeat(3, 0).repeat(3, 1) for picture in pictures()]
    found = model.encode([Image.fromarray(picture) for picture in large])
    assert cosines(found, load(folder).encode(large)).min() > 0.99


def test_sentence_transformers_that_is_missing_is_one_sentence(ours: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("sentence_transformers"):
        pytest.skip("sentence-transformers is installed")
    with pytest.raises(
        NearfarError, match="pip install 'sentence-transformers>=6'; --to transformers writes"
    ):
        nearfar.export(ours, to="sentence-transformers", out=tmp_path / "made")
    assert not any(tmp_path.iterdir())


def test_every_format_of_encoders_is_offered() -> None:
    assert tuple(FORMATS) == ENCODERS


def test_openvino_opens_its_own_files(ours: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    made = nearfar.export(ours, to="openvino", out=tmp_path / "made")
    files = ("README.md", "encoder.bin", "encoder.xml", "pipeline.bin", "pipeline.xml")
    assert made.files == files and made.difference < 1e-5 and made.pipeline_cosine > 0.99999
    text = (made.path / "README.md").read_text()
    assert "pipeline.xml, from a picture to its vector: a cosine of at least 0.999" in text
    assert "pipeline.xml as OpenVINO opens it by itself, here in " in text
    whole, run = openvino_ir.compiled(made.path / "pipeline.xml"), load(ours)
    for picture in pictures():
        assert cosines(whole(picture[None])[0], run.encode(picture)[None]) > 0.99999, picture.shape
    noise = np.random.default_rng(0).integers(
        0, 256, (150, 101, 3), np.uint8
    )  # of which antialiasing leaves little
    assert cosines(whole(noise[None])[0], run.encode(noise)[None]) > 0.9999


def test_the_image_processor_lays_what_is_transparent_over_white() -> None:
    pytest.importorskip("transformers")
    from nearfar.exports.image_processing import NearfarImageProcessor

    draw, plan = np.random.default_rng(0), Preprocess(size=16)
    prepare = NearfarImageProcessor(16, plan.decode_side, plan.crop, plan.interpolation)
    for mode in ("RGBA", "LA"):
        picture = Image.fromarray(draw.integers(0, 256, (40, 30, 4), np.uint8)).convert(mode)
        file = io.BytesIO()
        picture.save(file, "PNG")
        plain = Image.fromarray(decode(file.getvalue(), max_pixels=10_000))
        torch.testing.assert_close(prepare.prepared(picture), prepare.prepared(plain))
    with pytest.raises(ValueError, match="more than 8 bits"):
        prepare.prepared(Image.fromarray(np.full((20, 20), 40_000, np.uint16)))


@pytest.mark.parametrize("to", ["transformers", "torch"])
def test_a_disk_that_is_too_full_is_named_and_nothing_is_left(ours: Path, to: str, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: writers get no further."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(NearfarError, match="too full for out; free some space"):
            nearfar.export(ours, to=to, out=tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not any(tmp_path.iterdir())

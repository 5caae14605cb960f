"""Images with captions: how they are read, CLIP and SigLIP, and what a run on them is used for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import small_pairs
import torch
from interrupted import pretrain_until
from PIL import Image
from processes import without_dropout
from small import loops
from small_pairs import TINY, drawn

import nearfar
from nearfar import methods, models
from nearfar.cli.commands import pretrain_parser
from nearfar.core import progress
from nearfar.core.config import build, to_json
from nearfar.core.errors import NearfarError
from nearfar.data.batch import Batch
from nearfar.data.modalities import modality
from nearfar.data.pairs import open_pairs
from nearfar.losses import clip, siglip, unit
from nearfar.methods.image_text import numbers
from nearfar.text import networks
from nearfar.training import optim
from nearfar.training.method_choice import choose_method
from nearfar.training.run_facts import has_text
from nearfar.training.settings import Training

every = pytest.mark.parametrize("name", ["clip", "siglip", "coca", "blip"])
LOOKING = ("coca", "blip")  # those with layers that look at images, and so at tokens of captions


# Methods.


def small(name: str, *, locked: bool = False):
    """A method with two tiny encoders; the same weights each time."""
    with models.seeded(0, name):
        f = models.encoder("resnet10_w16", size=16).requires_grad_(not locked)
        text = networks.encoder("text_w128_d2" if name in LOOKING else "bag_w512")
        config = build(methods.settings(name), {"width": 16})
        return methods.method(name)(f, config, text=text)


def batch(count: int, equal: bool = False) -> Batch:
    images, _ = drawn(count, side=16)
    x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    ids = torch.zeros(count, 5, dtype=torch.int64)
    for row in range(count):
        kind = row % 3 if equal else row
        ids[row, : 2 + kind % 3] = torch.arange(2 + kind % 3) + 7 * kind + 2
    return Batch([x, ids], torch.arange(count))


@every
@pytest.mark.parametrize("equal", [False, True])
def test_the_loss_and_its_gradient_are_the_loops_of_the_docstring(name: str, equal: bool) -> None:
    module = small(name).double()
    made = batch(7, equal)
    made.views[0] = made.views[0].double()
    rows = [z.detach() for z in module.embed(made)]
    rows = [z[:, :, :64] if z.dim() == 3 else z for z in rows]  # of the vocabulary what captions have
    rows = [z.requires_grad_(z.is_floating_point()) for z in rows]
    learnt = [z for z in rows if z.requires_grad]
    settings = {"caption_weight": module.config.caption_weight} if name == "coca" else {}
    loss, truth = module.loss(*rows).total, loops(name)(*rows, **settings)
    torch.testing.assert_close(loss, truth, rtol=1e-12, atol=1e-12)
    for grad, right in zip(
        torch.autograd.grad(loss, learnt), torch.autograd.grad(truth, learnt), strict=True
    ):
        torch.testing.assert_close(grad, right, rtol=1e-9, atol=1e-12)


def test_tiles_change_no_loss_nor_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    from nearfar.losses import tiled

    generator = torch.Generator().manual_seed(0)
    x, y = (unit(torch.randn(37, 8, dtype=torch.float64, generator=generator)) for _ in "ab")
    names = torch.arange(37) % 11
    found = []
    for side in (512, 5):
        monkeypatch.setattr(tiled, "side", lambda z, side=side: side)
        for wide in (5.0, 60.0):
            a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
            s, c = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (wide, -3.0))
            total = clip(a, b, s, names) + siglip(a, b, s, c, names)
            found.append([total.detach(), *torch.autograd.grad(total, [a, b, s, c])])
    for one, other in zip(found[:2], found[2:], strict=True):
        for left, right in zip(one, other, strict=True):
            torch.testing.assert_close(left, right, rtol=1e-11, atol=1e-12)


@every
def test_a_method_reaches_every_parameter_and_overfits_and_chunks_agree(name: str) -> None:
    module, made = small(name), batch(8)
    without_dropout(module)
    for key, p in module.named_parameters():
        if key.endswith(("bn2.weight", "out.weight", "narrow.weight")):  # they start at 0
            torch.nn.init.constant_(p, 0.5 if p.dim() == 1 else 0.01)
    found = module(made)
    found.total.backward()
    for key, p in module.named_parameters():
        assert p.grad is not None and p.grad.abs().max() > 0, key
    assert build(methods.settings(name), to_json(module.config)) == module.config
    maker = optim.optimizer(Training(optimizer="adamw", lr=2e-3), module)
    for step in range(60):
        maker.zero_grad()
        found = module(made)
        found.total.backward()
        maker.step()
        module.after_step(step / 60, found.watched)
    assert module.metrics(found.watched)["contrastive_accuracy"] == 1.0
    assert 1 <= module.metrics(found.watched)["scale"] <= 100


@torch.no_grad()
def test_coca_writes_a_token_from_the_image_and_the_tokens_before_it() -> None:
    module, made = small("coca").eval(), batch(4)
    *_, v, target = module.embed(made)
    assert torch.equal(target == -1, made.views[1] == 0)
    other = made.views[1].clone()
    other[:, 2] += 5
    *_, later, _ = module.embed(Batch([made.views[0], other], made.rows))
    same = (v == later).all(2).all(0).tolist()
    assert same[:3] == [True, True, True] and not same[3]
    *_, elsewhere, _ = module.embed(Batch([made.views[0].roll(1, 0), made.views[1]], made.rows))
    assert not torch.equal(v[:, 0], elsewhere[:, 0])


@torch.no_grad()
def test_blip_draws_wrong_pairs_by_likeness_and_never_an_equal_caption() -> None:
    module = small("blip").eval()
    x = unit(torch.randn(6, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    y, s = x.roll(1, 0), torch.full((6,), 3.0, dtype=torch.float64)
    c = torch.tensor([1, 1, 2, 3, 4, 5])
    counts = torch.zeros(2, 6, 6, dtype=torch.float64)
    for step in range(2000):
        *drawn, w = module._wrong(Batch([x], torch.arange(6), key=step), x, y, s, c)
        assert w.tolist() == [1] * 6
        for way, places in zip(counts, drawn, strict=True):
            way[torch.arange(6), places] += 1
    differ = c[:, None] != c
    for way, likeness in zip(counts, (x @ y.T, y @ x.T), strict=True):
        chance = ((3 * likeness).softmax(1) + 1e-4) * differ
        assert (way[~differ] == 0).all()
        torch.testing.assert_close(way / 2000, chance / chance.sum(1, keepdim=True), rtol=0, atol=0.05)
    *_, w = module._wrong(Batch([x], torch.arange(6), key=0), x, y, s, torch.ones_like(c))
    assert w.tolist() == [0] * 6


@pytest.mark.parametrize("name", ["clip", *LOOKING])
def test_the_scale_of_clip_stops_at_100(name: str) -> None:
    module = small(name)
    with torch.no_grad():
        module.scale.t.fill_(9.0)
    module.after_step(0.1, {})
    assert module.scale.t.exp().item() == pytest.approx(100.0)


def test_equal_captions_have_equal_numbers_whatever_fills_the_row() -> None:
    ids = torch.tensor([[5, 6, 0, 0], [5, 6, 0, 0], [6, 5, 0, 0], [5, 6, 7, 0], [5, 0, 0, 0]])
    found = numbers(ids).tolist()
    assert found[0] == found[1] and len(set(found)) == 4
    assert numbers(ids[:, :3]).tolist() == found


def test_a_locked_encoder_keeps_its_weights_statistics_and_space() -> None:
    module, made = small("siglip", locked=True), batch(8)
    before = {key: value.clone() for key, value in module.f.state_dict().items()}
    maker = optim.optimizer(Training(optimizer="adamw", lr=2e-3), module)
    module.train()
    for _ in range(3):
        maker.zero_grad()
        module(made).total.backward()
        maker.step()
    assert all(torch.equal(value, before[key]) for key, value in module.f.state_dict().items())
    assert module.encoder is module.f and module.text_tower.dim == module.f.dim


# Runs.


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_pairs.folder(tmp_path_factory.mktemp("pairs") / "pictures", 96)


@pytest.fixture(scope="module")
def run(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "pairs"
    torch.set_num_threads(1)
    nearfar.pretrain(pictures, out=folder, **{**TINY, "steps": 80})  # without a method: SigLIP
    return folder


@pytest.fixture(scope="module")
def store(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    address = tmp_path_factory.mktemp("stores") / "pictures.nf"
    images, captions = drawn(32, seed=3)
    nearfar.embed(run, (images, [text.split()[1] for text in captions]), store=address, labels=True)
    return address


@every
def test_a_run_on_pairs_resumes_to_the_same_bytes(name: str, pictures: Path, tmp_path: Path) -> None:
    settings = {**TINY, "method": name, "steps": 6, "batch_size": 8, "health_checks": 0}
    settings |= {"text_encoder": "text_w128_d2"} if name in LOOKING else {}  # with dropout
    nearfar.pretrain(pictures, out=tmp_path / "unbroken", **settings)
    pretrain_until(4, pictures, out=tmp_path / "broken", **settings)
    nearfar.pretrain(pictures, out=tmp_path / "broken", **settings)
    for file in (
        "encoder.safetensors",
        "encoder.json",
        "last.safetensors",
        "parts.safetensors",
        "text/encoder.safetensors",
        "text/encoder.json",
        "text/tokenizer.json",
    ):
        assert (tmp_path / "broken" / file).read_bytes() == (tmp_path / "unbroken" / file).read_bytes()


def test_siglip_is_the_method_of_small_batches_and_clip_of_large_ones(
    pictures: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = {"batch_size": 511, "device": "cpu"}, {"batch_size": 512, "device": "cpu"}
    for data in (pictures, str(pictures / "captions.csv"), open_pairs(pictures)):
        assert choose_method("auto", data, small) == "siglip" and choose_method("auto", data, large) == "clip"
        assert choose_method("auto", data, {"device": "cpu"}) == "siglip"  # the batch of the recipe for CPUs
        assert choose_method("auto", data, {"device": "cpu"}, "imagenet") == "clip"
        assert choose_method("simclr", data, small) == "simclr"
    assert choose_method("auto", pictures, {**small, "modality": "images"}) == "simclr"
    assert choose_method("auto", photos, {**small, "modality": "pairs"}) == "siglip"
    assert choose_method("auto", photos, small) == choose_method("auto", "cifar10", large) == "simclr"
    (tmp_path / "metadata.csv").write_text("path,text\na.png,x\n")
    assert choose_method("auto", tmp_path, small) == "simclr"  # no table that is called captions
    with pytest.raises(NearfarError, match="no method 'simclar'; did you mean simclr"):
        choose_method("simclar", photos, small)
    assert "--text-encoder" in pretrain_parser([str(pictures)]).flags
    assert "--text-encoder" not in pretrain_parser([str(pictures), "--method", "simclr"]).flags
    settings = {**TINY, "steps": 1, "health_checks": 0}
    said: list[str] = []
    monkeypatch.setattr(progress, "say", said.append)
    nearfar.pretrain(pictures, out=tmp_path / "run", **settings)
    line = "method siglip, for images with captions and batches of 16; --method simclr leaves captions out."
    assert said.count(line) == 1
    again = nearfar.pretrain(pictures, out=tmp_path / "again", like=tmp_path / "run")
    assert again.config["method"] == "siglip"


def test_a_run_keeps_two_encoders_of_one_space(run: Path) -> None:
    found = nearfar.load(run)
    assert found.preprocess.modality == "images" and found.text is not None
    assert found.text.preprocess.modality == "text" and found.text.encoder.dim == found.encoder.dim == 32
    assert set(found.part("scale")) == {"t", "b"} and found.verdict() is not None
    images, captions = drawn(8, seed=9)
    x = found.encode(images, normalize_embeddings=True)
    y = found.text.encode(captions, normalize_embeddings=True)
    right = [(x @ y.T).argmax(1)[at] == at for at in range(8)]
    assert sum(right) >= 4  # of 8, by chance one
    assert nearfar.load(run / "text").encode("a red box").shape == (32,)


def test_images_are_found_and_classified_by_words(run: Path, store: Path, tmp_path: Path) -> None:
    found = nearfar.search(store, text="a blue box on the left", limit=4)
    assert list(found.columns) == ["similarity", "label"] and found.columns["label"].count("blue") >= 2
    mixed = nearfar.search(store, text="a red box", like=[found.ids[0]], limit=3)
    assert len(mixed.ids) == 3 and found.ids[0] not in mixed.ids
    (tmp_path / "names.txt").write_text("red\ngreen\nblue\nyellow\n")
    told = nearfar.classes(
        store, names=tmp_path / "names.txt", templates=["a {} box on the left"], save="kind"
    )
    right = [a == b for a, b in zip(told.columns["class"], _labels(store, told.ids), strict=True)]
    assert len(right) == 32 and sum(right) > 16  # of 32, by chance 8
    with pytest.raises(NearfarError, match="give one of them"):
        nearfar.classes(store)
    with pytest.raises(NearfarError, match="has no {}"):
        nearfar.classes(store, names=tmp_path / "names.txt", templates=["box"])
    (tmp_path / "names.txt").write_text("red\nred\n")
    with pytest.raises(NearfarError, match="a name twice"):
        nearfar.classes(store, names=tmp_path / "names.txt")


def _labels(store: Path, ids: tuple[str, ...]) -> list[str]:
    return nearfar.open_store(store).rows(["label"], ids=list(ids)).column("label").to_pylist()


def test_captions_learn_to_fit_a_run_that_stays_as_it_is(pictures: Path, run: Path, tmp_path: Path) -> None:
    settings = {**TINY, "health_checks": 0, "method": "siglip"}
    plain = nearfar.pretrain(
        pictures, out=tmp_path / "plain", **{key: TINY[key] for key in ("batch_size", "workers", "device")},
        steps=4, method="simclr", recipe="cpu", encoder="resnet10_w16", health_checks=0, precision="float32",
    )  # fmt: skip
    del settings["encoder"]
    fitted = nearfar.pretrain(
        pictures, out=tmp_path / "lit", weights=str(tmp_path / "plain"), trainable="none", **settings
    )
    state = fitted.encoder.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in plain.encoder.state_dict().items())
    assert fitted.text is not None and fitted.text.encoder.dim == plain.encoder.dim
    again = nearfar.pretrain(pictures, out=tmp_path / "next", weights=str(run), **{**settings, "steps": 2})
    assert again.text is not None and again.text.preprocess == nearfar.load(run / "text").preprocess
    still = {"weights": str(run), "trainable": "none", "steps": 2}
    with pytest.raises(NearfarError, match="leaves nothing to learn"):
        nearfar.pretrain(pictures, out=tmp_path / "no", method="simclr", **still)
    nearfar.embed(tmp_path / "plain", pictures, store=tmp_path / "plain.nf")
    with pytest.raises(NearfarError, match="has no encoder of texts"):
        nearfar.search(tmp_path / "plain.nf", text="a box")


def test_recall_stands_beside_chance_an_untrained_run_and_file_names(run: Path, tmp_path: Path) -> None:
    images, captions = drawn(48, seed=11)
    for number, (pixels, caption) in enumerate(zip(images, captions, strict=True)):
        place = tmp_path / "test" / caption.split()[1]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{caption.replace(' ', '_')}_{number}.png")
        (place / f"{caption.replace(' ', '_')}_{number}.txt").write_text(caption)
    found = nearfar.pairs(
        run, tmp_path / "test", classes=tmp_path / "test", templates=["a {} box on the left"]
    )
    assert list(found.rows) == ["encoder", "untrained", "file names (bm25)", "chance"]
    assert found.images == 48 and found.captions == 8 and not found.rejected
    assert found.rows["file names (bm25)"].image[0] == 1.0
    assert found.rows["chance"].image[0] == pytest.approx(6 / 48)
    assert found.rows["chance"].text == pytest.approx((1 / 8, 5 / 8, 1.0))
    assert found.rows["encoder"].text[1] > 0.8 and found.rows["encoder"].text[2] == 1.0
    assert found.classes is not None and found.classes.images == 24 and found.classes.chance == 0.25
    assert found.classes.words > 0.5 and "classes by their names" in str(found)
    assert json.dumps(found.to_json())
    with pytest.raises(NearfarError, match="encodes text; name a run on images with captions"):
        nearfar.pairs(run / "text", tmp_path / "test")


def test_what_no_encoder_can_tell_apart_is_one_answer(run: Path, tmp_path: Path) -> None:
    images, captions = drawn(8, seed=12)
    lines = ["path,caption"]
    for number, (pixels, caption) in enumerate(zip(images, captions, strict=True)):
        for copy in range(2):  # the same image twice, and its caption once in capitals
            Image.fromarray(pixels).save(tmp_path / f"{number}-{copy}.png")
            lines.append(f"{number}-{copy}.png,{caption.upper() + '!' if copy else caption}")
    (tmp_path / "captions.csv").write_text("\n".join([*lines, "./0-0.png,a picture", "1-0.png,"]))
    found = nearfar.pairs(run, tmp_path)
    assert str(found).endswith("16 images, 9 captions; 1 caption could not be used")
    assert (found.images, found.captions) == (16, 9)
    assert found.rows["encoder"].text[2] == 1.0 and found.rows["encoder"].image[0] > 0
    assert found.rows["chance"].image[0] == pytest.approx(2 / 16)


def test_the_page_searches_by_words_where_the_run_knows_them(run: Path, store: Path) -> None:
    pytest.importorskip("fastapi", reason="no FastAPI here: pip install 'nearfar[explore]'")
    from starlette.testclient import TestClient

    from nearfar.app import server
    from nearfar.app.findings import Findings
    from nearfar.app.row_numbers import NumberedStore

    rows = NumberedStore(nearfar.open_store(store))
    app = server.application(rows, Findings(rows), "known", {"localhost"})
    with TestClient(app, base_url="http://localhost:8000") as client:
        assert client.get("/?token=known").status_code == 200
        assert 'id="by-words" hidden' in client.get("/").text
        assert client.get("/api/store").json()["words"] is True
        answer = client.post("/api/search/words", json={"text": "a blue box", "where": "label != 'red'"})
        assert answer.status_code == 200 and b"similarity" in answer.content
        for body in ({"text": ""}, {"text": 3}, {}, {"text": "x" * 1001}, {"text": "x", "more": 1}):
            assert client.post("/api/search/words", json=body).status_code == 422
    assert not has_text(run / "text") and has_text(run) and not has_text("timm:resnet18")


def test_previews_and_the_report_show_images_with_captions(pictures: Path, run: Path, tmp_path: Path) -> None:
    kind, source = modality("pairs"), open_pairs(pictures)
    needs = kind.preprocess_for(24, kind.views(**kind.decided(source, {}, folders=(), start=None)))
    fetched = [kind.fetch(source, row, limit=10**6)[0] for row in (3, 5)]
    block = kind.collate([kind.decode(data, needs, limit=10**6).value for data in fetched])
    assert len(block) == 2 and [len(texts) for texts in block.captions] == [2, 2]
    assert kind.prepare(block, needs).shape == (2, 3, 24, 24)
    shown = nearfar.preview(pictures, out=tmp_path / "views.png", method="siglip", images=3, draws=2)
    assert shown.path.exists() and shown.erased == ()
    assert nearfar.report(run, out=tmp_path / "report.html").path.stat().st_size > 10_000


def test_a_text_that_cannot_be_encoded_is_named_by_itself(run: Path) -> None:
    with pytest.raises(NearfarError, match="'' cannot be encoded"):
        nearfar.load(run / "text").encode("")


def test_recall_of_one_image_is_refused(run: Path) -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    with pytest.raises(NearfarError, match="the list has one image to find"):
        nearfar.pairs(run, [(image, "a cat")])

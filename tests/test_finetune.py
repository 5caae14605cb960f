"""The verb finetune on pictures of known classes: modes, resuming, teachers, copies, mistakes."""

import json
import os
import shutil
import time
from contextlib import suppress

import forkserver
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from small_tuned import FULL, a_start, labelled, linear, rows, start  # noqa: F401

import nearfar
from nearfar import models
from nearfar.core.errors import NearfarError
from nearfar.features.extract import fingerprint
from nearfar.finetuning import outcome, trainer
from nearfar.finetuning.earlier_run import OURS, clear, find_earlier
from nearfar.finetuning.tuned import open_tuned
from nearfar.models import every_scale
from nearfar.training import adapting
from nearfar.training.run import export, load


def test_a_head_on_the_frozen_encoder(linear, start, labelled) -> None:
    test = linear.figures["test"][outcome.TUNED]
    assert test["accuracy"] > 0.5 and linear.images == {"train": 128, "held-out": 32, "test": 60}
    assert linear.verdict.name == "learnt" and linear.classes == ("kind0", "kind1", "kind2", "kind3")
    made, before = load(linear.path), load(start)
    assert fingerprint(made.encoder) == fingerprint(before.encoder)  # so its vectors are those of the start
    assert made.provenance["weights"] == str(start) and made.parts == ("head",)
    config = json.loads((linear.path / "config.json").read_text())
    assert config["asked"]["mode"] == "linear" and config["data"]["images"] == 128
    assert not [item.name for item in linear.path.iterdir() if item.suffix in (".pt", ".pkl", ".part")]
    again = nearfar.finetune(
        start, train=labelled / "train", test=labelled / "test", out=linear.path, mode="linear"
    )
    assert again == linear  # read, not trained again


def test_what_finetune_returns_stands_for_its_run(linear, labelled, tmp_path) -> None:
    found = nearfar.predict(linear, labelled / "test", out=tmp_path / "p.csv", workers=1)
    assert found.images == 60 and fingerprint(load(linear).encoder)
    for run in (linear, load(linear.path)):
        with pytest.raises(NearfarError, match=f"for example: nearfar predict {linear.path} photos/"):
            nearfar.predict(run, labelled / "test")


def test_few_labels_use_every_image_and_are_cross_validated(start, labelled, tmp_path) -> None:
    found = nearfar.finetune(start, train=labelled / "train", out=tmp_path / "few", mode="few-labels")
    assert found.images == {"train": 160, "cross-validated": 160} and "l2" in found.chosen
    assert 0.5 < found.figures["cross-validated"][outcome.TUNED]["accuracy"] <= 1


def test_a_kill_and_the_same_command_again_end_in_the_same_bytes(start, labelled, tmp_path) -> None:
    words = [
        "finetune",
        start,
        "--train",
        labelled / "train",
        "--mode",
        "full",
        "--lr",
        "0.01",
        "--epochs",
        4,
    ]
    words += ["--batch-size", 32, "--precision", "float32", "--device", "cpu", "--save-minutes", "0"]
    with forkserver.start(forkserver.NEARFAR, *words, "--out", tmp_path / "killed") as process:
        last = tmp_path / "killed" / "last.safetensors"
        for _ in range(1200):
            if last.exists() or process.poll() is not None:
                break
            time.sleep(0.05)
        process.kill()
    assert last.exists() and not (tmp_path / "killed" / "encoder.json").exists()
    with pytest.raises(NearfarError, match="is not finished; run its nearfar finetune command again"):
        open_tuned(tmp_path / "killed")
    with pytest.raises(NearfarError, match="is not finished; run its nearfar finetune command again"):
        load(tmp_path / "killed")
    keywords = {**FULL, "epochs": 4.0, "save_minutes": 0.0}
    made = [
        nearfar.finetune(str(start), train=str(labelled / "train"), out=tmp_path / name, **keywords)
        for name in ("killed", "whole")
    ]
    for name in ("encoder.safetensors", "parts.safetensors", "checks.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert made[0].figures == made[1].figures and set(made[0].figures["held-out"]) == {
        "fine-tuned",
        "frozen encoder",
    }
    training = json.loads((tmp_path / "killed" / "config.json").read_text())["training"]
    wanted = {"lr": 0.01, "batch_size": 32, "epochs": 4.0, "optimizer": "sgd", "mode": "full"}
    assert {**training, **wanted, "device": "cpu", "precision": "float32"} == training
    tuned = load_file(tmp_path / "whole" / "encoder.safetensors")
    assert any(
        not torch.equal(value, tuned[name]) for name, value in load(start).encoder.state_dict().items()
    )


def test_other_words_or_images_in_the_same_folder_are_refused(linear, start, labelled, tmp_path) -> None:
    data = {"train": labelled / "train", "test": labelled / "test", "out": linear.path}
    with pytest.raises(
        NearfarError, match="holds another run .seed 0 before and 1 now.; name another folder"
    ):
        nearfar.finetune(start, **data, mode="linear", seed=1)
    with pytest.raises(NearfarError, match="gone") as refused:
        nearfar.finetune(start, train=str(tmp_path / "gone"), out=tmp_path / "new", mode="linear")
    assert "new" not in str(refused.value) and not (tmp_path / "new").exists()
    with pytest.raises(NearfarError, match="holds no fine-tuned run; make one: nearfar finetune"):
        nearfar.predict(start, labelled / "test", out=tmp_path / "x.csv")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("kept")
    with pytest.raises(NearfarError, match="it holds 'notes.txt'; name a new or empty folder"):
        nearfar.finetune(start, train=labelled / "train", out=mine)
    assert [item.name for item in mine.iterdir()] == ["notes.txt"]
    with pytest.raises(NearfarError, match="is of --task classify, which has no --score"):
        nearfar.predict(linear.path, labelled / "test", out=tmp_path / "x.csv", score=0.5)


def test_a_run_that_was_half_cleared_away_is_taken_up(tmp_path, monkeypatch) -> None:
    left = []

    def killed(real):
        def remove(*args, **how):
            if not left:
                raise KeyboardInterrupt
            left.pop()
            return real(*args, **how)

        return remove

    for name in ("unlink", "rmdir"):
        monkeypatch.setattr(os, name, killed(getattr(os, name)))
    for kill in range(len(OURS) + 4):
        folder = tmp_path / str(kill)
        (folder / "vectors-0123").mkdir(parents=True)
        for name in (*OURS, "vectors-0123/key.json", "vectors-0123/0000000000.npz"):
            (folder / name).write_text('{"asked": {"task": "classify"}}')
        left[:] = [1] * kill
        with suppress(KeyboardInterrupt):
            clear(folder)
        left[:] = [1] * 99
        assert find_earlier(folder, {"task": "segment"}) is None
        clear(folder)
        assert not [*folder.iterdir()]


def test_several_labels_an_image(start, labelled, tmp_path) -> None:
    lines = ["path,labels"]
    for part in ("train", "test"):
        for path in sorted((labelled / part).rglob("*.png")):
            kind = int(path.parent.name[-1])
            words = [word for word, there in (("high", kind >= 2), ("odd", kind % 2)) if there]
            lines.append(f"{path},{';'.join(words)}")
    both = {}
    for part, some in (("train", lines[1:161]), ("test", lines[161:])):
        both[part] = tmp_path / f"{part}.csv"
        both[part].write_text("\n".join([lines[0], *some]))
    found = nearfar.finetune(start, **both, out=tmp_path / "many", mode="linear", multi_label=True)
    assert found.classes == ("high", "odd") and found.main == "mAP"
    assert found.figures["test"]["fine-tuned"]["mAP"] > 0.6
    nearfar.predict(tmp_path / "many", both["test"], out=tmp_path / "p.csv")
    table = rows(tmp_path / "p.csv")
    said = {row["class"] for row in table}
    assert said <= {"", "odd", "high", "odd;high", "high;odd"} and len(said) > 2
    full = nearfar.finetune(start, **both, out=tmp_path / "full", epochs=1.0, multi_label=True, **FULL)
    assert 0 < full.figures["test"]["fine-tuned"]["mAP"] <= 1


def test_a_group_stays_on_one_side(start, labelled, tmp_path) -> None:
    paths = sorted((labelled / "train").rglob("*.png"))
    listed = tmp_path / "groups.csv"
    listed.write_text(
        "\n".join(["path,group", *(f"{path},{number // 4}" for number, path in enumerate(paths))])
    )
    found = nearfar.finetune(
        start, train=labelled / "train", out=tmp_path / "g", mode="linear", groups=listed, holdout=0.25
    )
    assert found.images["train"] % 4 == 0 and found.images["held-out"] % 4 == 0


def test_the_first_layer_of_the_head_can_stay(start, labelled, tmp_path) -> None:
    data = {"train": labelled / "train", "test": labelled / "test"}
    with pytest.raises(NearfarError, match="has no part 'g'"):
        nearfar.finetune(start, **data, out=tmp_path / "no", from_head=1)
    assert not (tmp_path / "no").exists()
    kept, run = tmp_path / "kept", load(start)
    kept.mkdir()
    trained = models.encoder("resnet8", size=16, stem="standard", seed=1).eval()
    with models.seeded(0, "head"):
        g = models.mlp(trained.dim, 24, 24, 12)
    whole = every_scale.finished(trained)  # its vectors are longer than those that the head was trained on
    export(kept, whole, run.preprocess, {"nearfar": "0", "source": "a test"}, {"g": g.eval()})
    with pytest.raises(NearfarError, match="--from-head 3 is more than the 2 hidden layers of the head"):
        nearfar.finetune(kept, **data, out=tmp_path / "no", from_head=3)
    made = nearfar.finetune(kept, **data, out=tmp_path / "one", mode="linear", from_head=1)
    tuned = open_tuned(made.path)
    x = torch.rand(5, 3, 16, 16)
    with torch.no_grad():
        hidden = g[:3](trained(x))
        assert torch.allclose(tuned.network.head.neck(tuned.run.encoder(x)), hidden, atol=1e-6)
    nearfar.predict(made.path, labelled / "test", out=tmp_path / "p.csv")
    right = [row["path"].split("/")[0] == row["class"] for row in rows(tmp_path / "p.csv")]
    assert np.mean(right) == made.figures["test"]["fine-tuned"]["accuracy"]
    full = nearfar.finetune(kept, **data, out=tmp_path / "full", from_head=2, epochs=1.0, **FULL)
    tuned_neck = open_tuned(full.path).network.head.neck
    assert not torch.equal(tuned_neck.layers[0].weight, g[0].weight)


def test_vectors_are_kept_until_the_run_is_finished(start, labelled, tmp_path, monkeypatch) -> None:
    from nearfar.finetuning import vectors

    monkeypatch.setattr(vectors, "CHUNK_IMAGES", 64)
    encoded, features = [], vectors.features

    def dies(net, dataset, preprocess, **how):
        if len(encoded) == 2:
            raise KeyboardInterrupt
        encoded.append(len(dataset))
        return features(net, dataset, preprocess, **how)

    monkeypatch.setattr(vectors, "features", dies)
    keywords = {"train": labelled / "train", "mode": "few-labels"}
    with pytest.raises(KeyboardInterrupt):
        nearfar.finetune(start, **keywords, out=tmp_path / "cut")
    assert len(list((tmp_path / "cut").glob("vectors-*/*.npz"))) == 2
    monkeypatch.setattr(vectors, "features", lambda *a, **k: encoded.append(len(a[1])) or features(*a, **k))
    made = nearfar.finetune(start, **keywords, out=tmp_path / "cut")
    assert encoded == [64, 64, 32] and not list((tmp_path / "cut").glob("vectors-*"))
    whole = nearfar.finetune(start, **keywords, out=tmp_path / "whole")
    assert made.figures == whole.figures
    one, other = ((tmp_path / name / "parts.safetensors").read_bytes() for name in ("cut", "whole"))
    assert one == other


def test_a_student_learns_from_a_teacher_and_unlabelled_images(start, labelled, linear, tmp_path) -> None:
    few = tmp_path / "few"
    for path in sorted((labelled / "train").rglob("*.png")):
        if int(path.stem) < 5:
            (few / path.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, few / path.parent.name)
    plain = tmp_path / "plain"
    plain.mkdir()
    for path in (labelled / "train").rglob("*.png"):
        shutil.copy(path, plain / f"{path.parent.name}-{path.name}")
    how = {**FULL, "batch_size": None, "lr": 0.1, "epochs": 30, "holdout": 0, "workers": 1, "mode": "auto"}
    how |= {"test": labelled / "test", "teacher": str(linear.path)}
    with pytest.raises(NearfarError, match="name them with --unlabelled DATA"):
        nearfar.finetune(start, train=few, out=tmp_path / "s", **how)
    made = nearfar.finetune(start, train=few, out=tmp_path / "s", unlabelled=str(plain), **how)
    assert made.mode == "full" and made.chosen["epochs"] == 30
    assert made.chosen["batch_size"] == 180 and made.chosen["steps"] == 30  # more than the labelled images
    rows = made.figures["test"]
    # What the teacher gives here is what it gave in its own run, on the same images.
    teacher = linear.figures["test"]["fine-tuned"]["accuracy"]
    assert set(rows) == {"fine-tuned", "frozen encoder", "teacher"}
    assert rows["teacher"]["accuracy"] == teacher and rows["fine-tuned"]["accuracy"] > teacher - 0.15
    state = load_file(tmp_path / "s" / "encoder.safetensors")
    assert set(state) == set(load_file(start / "encoder.safetensors"))  # the teacher is not in it
    smaller = a_start("resnet5_w64", labelled, tmp_path / "smaller")  # half as many weights
    made = nearfar.finetune(smaller, train=few, out=tmp_path / "small", unlabelled=str(plain), **how)
    rows = made.figures["test"]
    assert load(tmp_path / "small").encoder.name == "resnet5_w64" and rows["teacher"]["accuracy"] == teacher
    assert rows["fine-tuned"]["accuracy"] >= teacher
    with pytest.raises(NearfarError, match="--teacher is for --mode full"):
        nearfar.finetune(
            start, train=few, out=tmp_path / "l", unlabelled=str(plain), **{**how, "mode": "linear"}
        )
    shutil.rmtree(few / "kind3")
    with pytest.raises(NearfarError, match="has other classes than"):
        nearfar.finetune(start, train=few, out=tmp_path / "o", unlabelled=str(plain), **how)


def test_copies_tell_a_split_nothing_and_tested_copies_are_counted(start, labelled, tmp_path) -> None:
    """Of labels drawn at random a copy in another fold, or a row that is repeated, would know the answer."""
    draw, lines = np.random.default_rng(3), ["path,label"]
    for path in sorted((labelled / "train").rglob("*.png"))[::2]:
        label = f"class {draw.integers(2)}"
        copy = tmp_path / "copies" / f"{path.parent.name}-{path.name}"
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(path, copy)
        lines += [f"{path},{label}", f"{path},{label}", f"{copy},{label}"]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    made = nearfar.finetune(start, train=tmp_path / "list.csv", out=tmp_path / "few", mode="few-labels")
    assert made.figures["cross-validated"][outcome.TUNED]["accuracy"] < 0.7
    assert "160 training images are the same as another, byte for byte" in str(made)
    half = nearfar.finetune(
        start, train=tmp_path / "list.csv", out=tmp_path / "linear", mode="linear", holdout=0.4
    )
    assert half.figures["held-out"][outcome.TUNED]["accuracy"] < 0.7
    same = nearfar.finetune(
        start, train=labelled / "train", test=labelled / "train", out=tmp_path / "same", mode="linear"
    )
    assert "160 of 160 test images are trained on too" in str(same)


def test_copies_that_were_saved_again_tell_a_split_nothing(start, tmp_path) -> None:
    """The labels are drawn at random: a copy of another size or quality in another fold knows the answer."""
    draw, lines = np.random.default_rng(4), ["path,label"]
    for number in range(60):
        label = f"class {draw.integers(2)}"
        pixels = draw.integers(40, 215, (8, 8, 3)).astype(np.uint8)
        image = Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC)
        image.save(tmp_path / f"{number}.png")
        image.save(tmp_path / f"{number}.jpg", quality=70)
        image.resize((48, 48)).save(tmp_path / f"{number}_small.png")
        lines += [f"{number}{end},{label}" for end in (".png", ".jpg", "_small.png")]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    (tmp_path / "test.csv").write_text("\n".join([lines[0], *lines[1:60:3]]))
    (tmp_path / "train.csv").write_text("\n".join([lines[0], *lines[2:60:3], *lines[61::3]]))
    made = nearfar.finetune(start, train=tmp_path / "list.csv", out=tmp_path / "few", mode="few-labels")
    assert made.figures["cross-validated"][outcome.TUNED]["accuracy"] < 0.7
    assert "120 training images are nearly the same as another, saved again, resized, turned" in str(made)
    both = {"train": tmp_path / "train.csv", "test": tmp_path / "test.csv"}
    found = nearfar.finetune(start, **both, out=tmp_path / "both", mode="linear")
    assert "20 of 20 test images are nearly the same as one trained on" in str(found)
    assert "training images are" not in str(found)


def test_networks_with_layer_norms_learn_by_adamw_and_more_slowly_near_the_image() -> None:
    resnet = models.encoder("resnet10_w16", size=16, seed=0)
    assert not trainer.takes_adamw(resnet) and trainer.lrs_of("finetune", resnet) == (0.05, 0.0125, 0.2)
    vit = models.encoder("vit_w64_d2", size=16, seed=0)
    assert trainer.takes_adamw(vit) and trainer.lrs_of("scratch", vit) == trainer.ADAMW_LRS
    assert trainer.lrs_of("linear", vit) == (0.1, 0.02, 0.5)  # of a head alone, by SGD
    head = torch.nn.Linear(64, 3)
    names = {id(weight): name for name, weight in vit.named_parameters()}

    def scales(untrained: bool) -> dict[str, float]:
        vit.untrained = untrained
        made = trainer.adamw(vit, list(head.parameters()), 1e-3)
        assert isinstance(made, torch.optim.AdamW)
        return {names.get(id(group["params"][0]), "head"): group["lr_scale"] for group in made.param_groups}

    assert set(scales(True).values()) == {1.0} and set(scales(True)) == {*names.values(), "head"}
    found = scales(False)
    depth = adapting.layers(vit)
    for name, layer in depth.items():
        assert found[name] == pytest.approx(0.75 ** (max(depth.values()) - layer)), name
    assert found["head"] == 1.0 and min(found.values()) < 0.5


def test_a_vision_transformer_learns_from_labels_and_from_scratch(labelled, tmp_path) -> None:
    begin = a_start("vit_w64_d2", labelled, tmp_path / "vit")
    how = {"mode": "full", "epochs": 15, "scratch": True, "device": "cpu"}
    made = nearfar.finetune(
        begin, train=labelled / "train", test=labelled / "test", out=tmp_path / "a", **how
    )
    assert made.chosen["lr"] in trainer.ADAMW_LRS
    assert made.figures["test"][outcome.TUNED]["accuracy"] > 0.7
    assert made.figures["test"][outcome.SCRATCH]["accuracy"] > 0.7


def test_images_for_a_teacher_need_a_teacher(start, labelled, tmp_path) -> None:
    with pytest.raises(NearfarError, match="--unlabelled x is for a teacher"):
        nearfar.finetune(start, train=labelled / "train", out=tmp_path / "x", unlabelled="x")
    how = {"teacher": "t", "unlabelled": "x", "balance": "weights"}
    with pytest.raises(NearfarError, match="--balance is for labels alone"):
        nearfar.finetune(start, train=labelled / "train", out=tmp_path / "x", **how)

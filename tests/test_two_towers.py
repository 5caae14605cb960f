"""Folders of CLIP and SigLIP are adopted: they give the vectors of a reference made of torch's own layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from small_pairs import drawn
from tokenizers import Tokenizer, pre_tokenizers, processors, trainers
from tokenizers import models as token_models
from torch import Tensor, nn

import nearfar
from nearfar.core import progress
from nearfar.core.errors import NearfarError
from nearfar.features.extract import fingerprint
from nearfar.text import tokenizer
from nearfar.training.run import load

WIDTH, HEADS, INNER, DEPTH, SIDE, PATCH, PLACES = 16, 4, 24, 2, 16, 8, 12
TEXTS = ["a red box on the left", "blue", "a green box " * 6]
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]


def made_tokenizer(kind: str) -> Tokenizer:
    """A small tokenizer without a token that fills up, as those models have it."""
    made = Tokenizer(token_models.BPE(unk_token="<end>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["<pad>", "<x>", "<start>", "<end>"]
    made.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=60, special_tokens=special))
    made.add_special_tokens(["<start>", "<end>"])
    start, end = (made.token_to_id(word) for word in ("<start>", "<end>"))
    if kind == "clip":
        made.post_processor = processors.RobertaProcessing(("<end>", end), ("<start>", start), False, False)
    else:
        made.post_processor = processors.TemplateProcessing("$A <end>", special_tokens=[("<end>", end)])
    return made


def layers(act: str) -> nn.TransformerEncoder:
    """Torch's own layers, of the same make."""
    acts: dict[str, Any] = {"quick_gelu": lambda x: x * torch.sigmoid(1.702 * x), "gelu": F.gelu}
    acts["gelu_pytorch_tanh"] = lambda x: F.gelu(x, approximate="tanh")
    one = nn.TransformerEncoderLayer(
        WIDTH, HEADS, INNER, 0.0, acts[act], 1e-5, batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(one, DEPTH, enable_nested_tensor=False).eval()


def layers_state(net: nn.TransformerEncoder, start: str) -> dict[str, Tensor]:
    """Their weights, by transformers' names."""
    found = {}
    names = {"linear1": "mlp.fc1", "linear2": "mlp.fc2", "norm1": "layer_norm1", "norm2": "layer_norm2"}
    for name, value in net.state_dict().items():
        _, number, rest = name.split(".", 2)
        first, _, last = rest.rpartition(".")
        where = f"{start}encoder.layers.{number}"
        if "in_proj" in rest:
            for part, piece in zip("qkv", value.chunk(3), strict=True):
                kind = "bias" if rest.endswith("bias") else "weight"
                found[f"{where}.self_attn.{part}_proj.{kind}"] = piece.clone()
        else:
            found[f"{where}.{names.get(first, first)}.{last}"] = value.clone()
    return found


class Reference:
    """Both towers, written once more with torch's layers, and a folder of them as transformers writes it."""

    def __init__(self, folder: Path, kind: str) -> None:
        torch.manual_seed(0)
        self.kind, act = kind, "quick_gelu" if kind == "clip" else "gelu_pytorch_tanh"
        self.words = made_tokenizer(kind)
        draw = torch.randn
        self.vision, self.text = layers(act), layers(act)
        for net in (self.vision, self.text):
            for weight in net.parameters():
                nn.init.normal_(weight, std=0.3)
        of_clip, count = kind == "clip", self.words.get_vocab_size()
        v, t = "vision_model.", "text_model."
        self.state = layers_state(self.vision, v) | layers_state(self.text, t)
        self.state |= {
            f"{v}embeddings.patch_embedding.weight": draw(WIDTH, 3, PATCH, PATCH) / 10,
            f"{v}embeddings.position_embedding.weight": draw((SIDE // PATCH) ** 2 + of_clip, WIDTH),
            f"{t}embeddings.token_embedding.weight": draw(count, WIDTH),
            f"{t}embeddings.position_embedding.weight": draw(PLACES, WIDTH),
            "logit_scale": torch.tensor(2.0),
        }
        norms = [f"{v}post_layernorm", f"{t}final_layer_norm", *([f"{v}pre_layrnorm"] if of_clip else [])]
        if of_clip:
            self.state[f"{v}embeddings.class_embedding"] = draw(WIDTH)
            self.state |= {f"{name}_projection.weight": draw(8, WIDTH) for name in ("visual", "text")}
        else:
            self.pool = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
            head = f"{v}head."
            self.state |= {f"{head}attention.{key}": x.clone() for key, x in self.pool.state_dict().items()}
            self.state |= {f"{head}probe": draw(1, 1, WIDTH), "logit_bias": torch.tensor(-3.0)}
            self.state |= {f"{head}mlp.fc1.weight": draw(INNER, WIDTH), f"{head}mlp.fc1.bias": draw(INNER)}
            self.state |= {f"{head}mlp.fc2.weight": draw(WIDTH, INNER), f"{head}mlp.fc2.bias": draw(WIDTH)}
            self.state |= {f"{t}head.weight": draw(WIDTH, WIDTH), f"{t}head.bias": draw(WIDTH)}
            self.state[f"{v}embeddings.patch_embedding.bias"] = draw(WIDTH)
            norms.append(f"{head}layernorm")
        for name in norms:
            self.state |= {f"{name}.weight": 1 + draw(WIDTH) / 5, f"{name}.bias": draw(WIDTH) / 5}
        sizes = {"hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": DEPTH}
        sizes |= {"num_attention_heads": HEADS, "layer_norm_eps": 1e-5}
        words = {"vocab_size": count, "max_position_embeddings": PLACES}
        config = {
            "model_type": kind,
            "text_config": {**sizes, **words, "pad_token_id": 1},
            "vision_config": {**sizes, "image_size": SIDE, "patch_size": PATCH},
        }
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(config))
        plain = {"image_mean": MEAN, "image_std": STD, "resample": 3, "size": {"shortest_edge": SIDE}}
        (folder / "preprocessor_config.json").write_text(json.dumps(plain))
        self.words.save(str(folder / "tokenizer.json"))
        safetensors.torch.save_file(self.state, folder / "model.safetensors")

    def norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = (self.state[f"{name}.{part}"] for part in ("weight", "bias"))
        return F.layer_norm(x, (WIDTH,), weight, bias, 1e-5)

    @torch.no_grad()
    def images(self, pixels: np.ndarray) -> Tensor:
        s, v = self.state, "vision_model."
        x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        x = (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
        bias = s.get(f"{v}embeddings.patch_embedding.bias")
        y = F.conv2d(x, s[f"{v}embeddings.patch_embedding.weight"], bias, PATCH).flatten(2).transpose(1, 2)
        if self.kind == "clip":
            y = torch.cat([s[f"{v}embeddings.class_embedding"].expand(len(y), 1, -1), y], 1)
        y = y + s[f"{v}embeddings.position_embedding.weight"]
        if self.kind == "clip":
            y = self.vision(self.norm(y, f"{v}pre_layrnorm"))[:, 0]
            return self.norm(y, f"{v}post_layernorm") @ s["visual_projection.weight"].T
        y = self.norm(self.vision(y), f"{v}post_layernorm")
        asked = s[f"{v}head.probe"].expand(len(y), -1, -1)
        z = self.pool(asked, y, y)[0]
        inner = F.linear(
            self.norm(z, f"{v}head.layernorm"), s[f"{v}head.mlp.fc1.weight"], s[f"{v}head.mlp.fc1.bias"]
        )
        inner = F.gelu(inner, approximate="tanh")
        return (z + F.linear(inner, s[f"{v}head.mlp.fc2.weight"], s[f"{v}head.mlp.fc2.bias"]))[:, 0]

    @torch.no_grad()
    def texts(self, texts: list[str]) -> Tensor:
        s, t, rows = self.state, "text_model.", []
        for text in texts:
            ids = self.words.encode(text).ids
            ids = ids if len(ids) <= PLACES else [*ids[: PLACES - 1], ids[-1]]
            mask = None
            if self.kind == "clip":
                mask = nn.Transformer.generate_square_subsequent_mask(len(ids))
            else:
                ids = ids + [1] * (PLACES - len(ids))
            x = s[f"{t}embeddings.token_embedding.weight"][ids]
            x = (x + s[f"{t}embeddings.position_embedding.weight"][: len(ids)])[None]
            x = self.norm(self.text(x, mask, is_causal=mask is not None), f"{t}final_layer_norm")[:, -1]
            of_clip = self.kind == "clip"
            rows.append(
                x @ s["text_projection.weight"].T
                if of_clip
                else F.linear(x, s[f"{t}head.weight"], s[f"{t}head.bias"])
            )
        return torch.cat(rows)


def pixels() -> np.ndarray:
    return np.stack(drawn(3, side=SIDE)[0])


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_folder_of_transformers_gives_the_vectors_of_a_reference(kind: str, tmp_path: Path) -> None:
    truth = Reference(tmp_path / kind, kind)
    run = load(tmp_path / kind)
    assert run.text is not None and run.provenance["scale"]["scale"] == pytest.approx(np.exp(2.0))
    assert run.preprocess.size == SIDE and run.encoder.mean == tuple(MEAN)
    kept = nearfar.adopt(tmp_path / kind, out=tmp_path / "kept")
    for found in (run, kept):
        assert found.text is not None
        x, y = found.encode(list(pixels())), found.text.encode(TEXTS)
        np.testing.assert_allclose(x, truth.images(pixels()).numpy(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(y, truth.texts(TEXTS).numpy(), rtol=1e-4, atol=1e-5)
    assert kept.provenance["source"] == str(tmp_path / kind) and (tmp_path / "kept" / "text").is_dir()


def test_a_folder_of_open_clip_gives_the_same_vectors(tmp_path: Path) -> None:
    truth = Reference(tmp_path / "clip", "clip")
    folder, state = tmp_path / "open", {}
    names = {
        "vision_model.embeddings.class_embedding": "visual.class_embedding",
        "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
        "text_model.embeddings.position_embedding.weight": "positional_embedding",
        "logit_scale": "logit_scale",
    }
    for name, value in truth.state.items():
        if name.endswith("_projection.weight"):
            state["visual.proj" if name[0] == "v" else "text_projection"] = value.T.contiguous()
            continue
        new = names.get(name, name)
        for before, after in (
            ("vision_model.encoder.layers", "visual.transformer.resblocks"),
            ("text_model.encoder.layers", "transformer.resblocks"),
            ("vision_model.embeddings.patch_embedding", "visual.conv1"),
            ("text_model.embeddings.token_embedding", "token_embedding"),
            ("vision_model.pre_layrnorm", "visual.ln_pre"),
            ("vision_model.post_layernorm", "visual.ln_post"),
            ("text_model.final_layer_norm", "ln_final"),
            ("layer_norm", "ln_"),
            ("mlp.fc1", "mlp.c_fc"),
            ("mlp.fc2", "mlp.c_proj"),
            ("self_attn.out_proj", "attn.out_proj"),
        ):
            new = new.replace(before, after)
        state[new] = value
    for name in [name for name in state if ".self_attn.q_proj." in name]:
        three = [state.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        state[name.replace("self_attn.q_proj.", "attn.in_proj_")] = torch.cat(three)
    folder.mkdir()
    safetensors.torch.save_file(state, folder / "open_clip_model.safetensors")
    vision = {"image_size": SIDE, "patch_size": PATCH, "width": WIDTH, "head_width": WIDTH // HEADS}
    text = {"context_length": PLACES, "vocab_size": truth.words.get_vocab_size(), "width": WIDTH}
    both = {"layers": DEPTH, "mlp_ratio": INNER / WIDTH}
    model = {"quick_gelu": True, "vision_cfg": vision | both, "text_cfg": text | both | {"heads": HEADS}}
    config = {"model_cfg": model, "preprocess_cfg": {"mean": MEAN, "std": STD}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    truth.words.save(str(folder / "tokenizer.json"))
    run = load(folder)
    assert run.text is not None
    x, y = run.encode(list(pixels())), run.text.encode(TEXTS)
    np.testing.assert_allclose(x, truth.images(pixels()).numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(y, truth.texts(TEXTS).numpy(), rtol=1e-4, atol=1e-5)


def test_images_are_searched_by_words_with_a_folder_alone(tmp_path: Path) -> None:
    Reference(tmp_path / "clip", "clip")
    images, captions = drawn(8, side=SIDE)
    nearfar.embed(tmp_path / "clip", images, store=tmp_path / "photos.nf")
    found = nearfar.search(tmp_path / "photos.nf", text="a red box", limit=3)
    assert len(found.ids) == 3
    told = nearfar.pairs(tmp_path / "clip", list(zip(images, captions, strict=True)))
    assert list(told.rows) == ["encoder", "untrained", "chance"] and told.captions == 8
    started = nearfar.pretrain(
        list(zip(images, captions, strict=True)), out=tmp_path / "run", method="siglip", batch_size=4,
        weights=str(tmp_path / "clip"), steps=2, workers=1, device="cpu", health_checks=0,
        precision="float32",
    )  # fmt: skip
    assert started.encoder.name == "clip_image" and started.text is not None
    assert started.text.encoder.name == "clip_text" and started.encoder.dim == 8


def test_damaged_folders_are_named(tmp_path: Path) -> None:
    truth = Reference(tmp_path / "clip", "clip")
    folder = tmp_path / "clip"
    words = (folder / "tokenizer.json").read_text()
    for content in ("", "{}", "[1]", '{"model": {"vocab": []}}'):
        (folder / "tokenizer.json").write_text(content)
        with pytest.raises(NearfarError, match="tokenizer"):
            load(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(NearfarError, match=r"cannot be read as a tokenizer"):
        load(folder)
    (folder / "tokenizer.json").write_text(words)
    del truth.state["text_model.final_layer_norm.bias"]
    safetensors.torch.save_file(truth.state, folder / "model.safetensors")
    with pytest.raises(NearfarError, match="final_layer_norm"):
        load(folder)
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["hidden_size"] = "wide"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(NearfarError, match='vision: hidden_size is "wide", not a whole number'):
        load(folder)
    (folder / "model.safetensors").write_bytes(b"x")
    with pytest.raises(NearfarError, match="whole folder"):
        load(folder)


def test_what_a_folder_does_not_say_is_told_and_pickles_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth, folder = Reference(tmp_path / "siglip", "siglip"), tmp_path / "siglip"
    plain, kept = folder / "preprocessor_config.json", folder / "model.safetensors"
    right = fingerprint(load(folder).encoder.net)
    plain.write_text(json.dumps({"size": {"height": SIDE, "width": SIDE}}))
    progress.show(True)
    try:
        fit = load(folder).preprocess.fit
    finally:
        progress.show(False)
    said = capsys.readouterr().err
    assert "those of most siglip networks are taken: mean 0.5 0.5 0.5" in said
    assert fit == "squash" and "not square" not in said
    # In two files, with their index.
    keys, index = sorted(truth.state), {}
    for at, name in enumerate(("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")):
        safetensors.torch.save_file({key: truth.state[key] for key in keys[at::2]}, folder / name)
        index |= dict.fromkeys(keys[at::2], name)
    kept.unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert fingerprint(load(folder).encoder.net) == right
    (folder / "model.safetensors.index.json").unlink()
    torch.save(truth.state, folder / "pytorch_model.bin")
    with pytest.raises(NearfarError, match=r"are a pickle \(pytorch_model.bin\), which can run any code"):
        load(folder)


def test_a_padded_tokenizer_gives_the_same_tokens_one_further_on() -> None:
    for kind in ("clip", "siglip"):
        plain = made_tokenizer(kind)
        digest = tokenizer.register(tokenizer.padded(plain.to_str()), kind)
        for text in TEXTS:
            wanted = [at + 1 for at in plain.encode(text).ids]
            assert tokenizer.encode(digest, text, 99).tolist() == wanted
            assert tokenizer.encode(digest, text, 3).tolist() == (
                wanted if len(wanted) <= 3 else [*wanted[:2], wanted[-1]]
            )
        assert tokenizer.padded(tokenizer.file_of(digest)) == tokenizer.file_of(digest)

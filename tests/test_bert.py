"""Folders of a BERT, as sentence-transformers and transformers write them, are encoders of texts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from small_texts import SUBJECTS, TINY, sentences

import nearfar
from nearfar.core.errors import NearfarError
from nearfar.data import modalities as kinds
from nearfar.text import tokenizer


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as sentence-transformers writes it, of a tiny BERT with random weights."""
    import safetensors.torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    folder = tmp_path_factory.mktemp("models") / "bert"
    folder.mkdir()
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        *sorted({w for part in SUBJECTS.values() for w in part}),
        "the",
    ]
    made = Tokenizer(models.WordPiece({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    made.enable_truncation(4)
    made.save(str(folder / "tokenizer.json"))
    config = {"model_type": "bert", "vocab_size": len(words), "hidden_size": 16, "num_hidden_layers": 2}
    config |= {"num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 12}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 8}')
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    torch.manual_seed(0)
    state = {f"bert.{name}": value for name, value in networks_of_bert(config).state_dict().items()}
    safetensors.torch.save_file(state, folder / "model.safetensors")
    return folder


def networks_of_bert(config: dict[str, object]) -> torch.nn.Module:
    from nearfar.text.bert import BertNetwork

    return BertNetwork(config)


def test_a_folder_of_a_bert_is_an_encoder_and_computes_what_torch_does(bert: Path, tmp_path: Path) -> None:
    run = nearfar.load(bert)
    assert run.preprocess.size == 8 and run.encoder.dim == 16 and run.facts()["licence"] == "mit"
    ids = tokenizer.encode(run.preprocess.tokenizer, "the ship the wave the cow the barn the hen", 8)
    assert len(ids) == 8 and ids[0] == 2 and ids[-1] == 3
    net, x = run.encoder.net, torch.tensor([ids.tolist(), [2, 5, 6, 3, 0, 0, 0, 0]])
    e = net.embeddings
    y = e["LayerNorm"](
        e["word_embeddings"](x) + e["position_embeddings"].weight[:8] + e["token_type_embeddings"].weight[0]
    )
    for layer in net.encoder["layer"]:
        plain = torch.nn.TransformerEncoderLayer(16, 2, 32, 0.0, "gelu", 1e-12, batch_first=True)
        own, last = layer.attention["self"], layer.attention["output"]
        with torch.no_grad():
            for kind in ("weight", "bias"):
                three = [getattr(own[name], kind) for name in ("query", "key", "value")]
                getattr(plain.self_attn, f"in_proj_{kind}").copy_(torch.cat(three))
                for part, of in (
                    (plain.self_attn.out_proj, last["dense"]),
                    (plain.norm1, last["LayerNorm"]),
                    (plain.linear1, layer.intermediate["dense"]),
                    (plain.linear2, layer.output["dense"]),
                    (plain.norm2, layer.output["LayerNorm"]),
                ):
                    getattr(part, kind).copy_(getattr(of, kind))
        y = plain.train()(y, src_key_padding_mask=x == 0)
    there = (x != 0)[:, :, None]
    torch.testing.assert_close(net(x), (y * there).sum(1) / there.sum(1), rtol=1e-5, atol=1e-5)
    kept = nearfar.adopt(bert, out=tmp_path / "kept")
    assert np.allclose(kept.encode("the ship"), run.encode("the ship"), atol=1e-6)
    texts, _ = sentences(40)
    source = kinds.modality("text").open(texts)
    tuned = nearfar.pretrain(source, out=tmp_path / "tuned", **TINY, method="simcse", weights=str(bert))
    assert tuned.encoder.name == "bert" and tuned.preprocess.tokenizer == run.preprocess.tokenizer
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(NearfarError, match="vocab_size is missing"):
        nearfar.load(tmp_path / "broken")


def copied(folder: Path, to: Path, files: dict[str, object]) -> Path:
    """Copy a folder, with other JSON files beside or in the place of its own."""
    shutil.copytree(folder, to)
    for name, content in files.items():
        (to / name).parent.mkdir(exist_ok=True)
        (to / name).write_text(json.dumps(content))
    return to


MODES = {
    "mean": ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
    "first": ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, "first"),
    "new": ({"pooling_mode": "cls"}, "first"),
    "max": ({"pooling_mode_mean_tokens": False, "pooling_mode_max_tokens": True}, ""),
    "both": ({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}, ""),
    "last": ({"pooling_mode": "lasttoken"}, ""),
}


@pytest.mark.parametrize("case", MODES)
def test_a_berts_pooling_is_its_folders_or_refused(bert: Path, tmp_path: Path, case: str) -> None:
    said, wanted = MODES[case]
    folder = copied(bert, tmp_path / "m", {"1_Pooling/config.json": said})
    if wanted:
        assert nearfar.load(folder).encoder.net.pooling == wanted
    else:
        with pytest.raises(NearfarError, match="makes vectors of tokens by .*max|lasttoken"):
            nearfar.load(folder)


@pytest.mark.parametrize(("last", "fits"), [("Normalize", True), ("Dense", False)])
def test_a_module_after_a_berts_pooling_is_not_left_out(
    bert: Path, tmp_path: Path, last: str, fits: bool
) -> None:
    parts = {"": "Transformer", "1_P": "Pooling", f"2_{last}": last}
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in parts.items()]
    files = {"modules.json": modules, "1_P/config.json": {"pooling_mode_cls_token": True}}
    folder = copied(bert, tmp_path / "m", files)
    if fits:
        assert nearfar.load(folder).encoder.net.pooling == "first"
    else:
        with pytest.raises(NearfarError, match="names a module Dense"):
            nearfar.load(folder)


def test_a_bert_with_a_card_or_a_tokenizer_of_others(bert: Path, tmp_path: Path) -> None:
    folder = copied(bert, tmp_path / "m", {})
    (folder / "README.md").write_bytes("---\nlicense: mit\n---\ncaf\u00e9".encode("latin-1"))
    assert nearfar.load(folder).facts()["licence"] == "mit"
    held = json.loads((folder / "tokenizer.json").read_text())
    held["model"]["vocab"]["one more"] = len(held["model"]["vocab"])
    (folder / "tokenizer.json").write_text(json.dumps(held))
    with pytest.raises(NearfarError, match="tokens and the model beside it"):
        nearfar.load(folder)

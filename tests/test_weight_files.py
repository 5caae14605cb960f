"""Weights in pickles, in several files and in the embedded package: what is refused, converted and read."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from small_known import HALF, IMAGENET, OWN, figures, folder_of, heard, state  # noqa: F401

from nearfar import models
from nearfar.core.errors import NearfarError
from nearfar.features.extract import fingerprint
from nearfar.models import embedded
from nearfar.training.run import load


@pytest.mark.parametrize(
    "names",
    [
        ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"),
        ("weights.pth",),
    ],
)
def test_the_command_that_a_refusal_gives_converts_a_pickle(
    names: tuple[str, ...], state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    right = folder_of(tmp_path / "right", state, mean=OWN[0], std=OWN[1])
    folder = tmp_path / "it's here"
    shutil.copytree(right, folder)
    (folder / "model.safetensors").unlink()
    keys = list(state)
    for at, name in enumerate(names):
        torch.save({key: state[key] for key in keys[at :: len(names)]}, folder / name)
    torch.save({}, folder / "optimizer.pt")
    with pytest.raises(NearfarError, match=r"are a pickle \(.*\), which can run any code") as raised:
        load(folder)
    command = str(raised.value).partition("maker: ")[2]
    program, flag, code = shlex.split(command)  # as a shell takes it apart
    assert (program, flag) == ("python", "-c") and "optimizer" not in code
    exec(code, {})
    assert fingerprint(load(folder).encoder) == fingerprint(load(right).encoder)


def test_weights_in_several_files_are_read_by_their_index(
    state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    folder = folder_of(tmp_path / "net", state, mean=OWN[0], std=OWN[1])
    whole = fingerprint(load(folder).encoder)
    (folder / "model.safetensors").unlink()
    keys, index = list(state), {}
    for at in range(2):
        name = f"model-0000{at + 1}-of-00002.safetensors"
        safetensors.torch.save_file({key: state[key] for key in keys[at::2]}, folder / name)
        index |= dict.fromkeys(keys[at::2], name)
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": index}))
    assert fingerprint(load(folder).encoder) == whole
    last = folder / "model-00002-of-00002.safetensors"
    last.rename(tmp_path / last.name)
    with pytest.raises(NearfarError, match=r"no such file; model.safetensors.index.json names it, so give"):
        load(folder)
    for elsewhere in (f"../{last.name}", str(tmp_path / last.name), "..\\x.safetensors", "x.bin"):
        path.write_text(json.dumps({"weight_map": {**index, keys[1]: elsewhere}}))
        with pytest.raises(NearfarError, match="no .safetensors file beside it"):
            load(folder)
    for damaged in ("{", "[]", '{"weight_map": {"a": 1}}'):
        path.write_text(damaged)
        with pytest.raises(NearfarError, match=r"index\.json"):
            load(folder)


def test_weights_under_another_name_are_pointed_at(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "net", state)
    (folder / "model.safetensors").rename(folder / "vit.safetensors")
    with pytest.raises(NearfarError, match=r"holds no model.safetensors; rename vit.safetensors if"):
        load(folder)
    (folder / "vit.safetensors").unlink()
    with pytest.raises(NearfarError, match=r"holds no model.safetensors; give a whole folder"):
        load(folder)


class Hub(BaseHTTPRequestHandler):
    """Plays the hub with the one repository org/name."""

    files: Mapping[str, bytes] = {}

    def log_message(self, *words: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        commit, path = "a" * 40, self.path.partition("?")[0]
        headers = {"X-Repo-Commit": commit, "Content-Type": "application/json"}
        name = path.rpartition("/")[2]
        if path.startswith("/api/models/org/name/tree/"):
            told = [
                {"type": "file", "path": key, "size": len(value), "oid": hashlib.sha1(value).hexdigest()}
                for key, value in self.files.items()
            ]
            body = json.dumps(told).encode()
        elif path.startswith("/api/models/org/name"):
            body = json.dumps(
                {"id": "org/name", "sha": commit, "siblings": [{"rfilename": key} for key in self.files]}
            ).encode()
        elif path.startswith("/org/name/resolve/") and name in self.files:
            body = self.files[name]
            headers["ETag"] = hashlib.sha1(body).hexdigest()
        else:
            self.send_error(404)
            return
        self.send_response(200)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def test_a_repository_that_holds_a_pickle_alone_says_how_to_convert_it(
    state: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    folder = folder_of(tmp_path / "net", state, mean=OWN[0], std=OWN[1])
    note, kept = (folder / "config.json").read_bytes(), (folder / "model.safetensors").read_bytes()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    try:
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "one"))
        monkeypatch.setattr(Hub, "files", {"config.json": note, "pytorch_model.bin": b"x"})
        with pytest.raises(NearfarError) as raised:
            load("hf:org/name")
        said = str(raised.value)
        assert "are a pickle (pytorch_model.bin), which can run any code" in said
        assert "hf download org/name --local-dir name" in said
        assert "torch.load('name/pytorch_model.bin', weights_only=True), 'name/model.safetensors'" in said
        assert not [*(tmp_path / "one").rglob("*.bin")]  # and it was not fetched
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "two"))
        monkeypatch.setattr(Hub, "files", {"config.json": note, "model.safetensors": kept})
        assert figures("hf:org/name@64") == OWN
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package like the embedded one's: a pickle of EfficientNet-Lite0, and code that must not run."""
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(embedded, "PACKAGE", "stand_in_of_weights")
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "stand_in_of_weights" / embedded.FILE
    file.parent.mkdir(parents=True)
    (tmp_path / "stand_in_of_weights" / "__init__.py").write_text("raise SystemExit('was imported')")
    return file


def test_the_packages_pickle_is_converted_once(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with models.seeded(5, "lite"):
        state = timm.create_model("efficientnet_lite0").state_dict()
    torch.save({f"_own.{at}": value for at, value in enumerate(state.values())}, package)
    monkeypatch.setattr(embedded, "SHA256", hashlib.sha256(package.read_bytes()).hexdigest())
    run = load("known")
    kept = tmp_path / "cache" / "known" / "efficientnet_lite0.safetensors"
    converted = safetensors.torch.load_file(kept)
    assert {*converted} == {*state} and all(torch.equal(converted[key], state[key]) for key in state)
    assert run.encoder.mean == run.encoder.std == (0.5, 0.5, 0.5)
    shutil.rmtree(package.parents[1])  # it is needed once
    assert fingerprint(load("known").encoder) == fingerprint(run.encoder)
    # The same weights under the name of their network are known by their bytes; other weights are not.
    assert figures(f"{embedded.NAME}={kept}") == IMAGENET and "does not say" in capsys.readouterr().err
    monkeypatch.setattr(embedded, "TENSORS", embedded.digest_of(converted))
    safetensors.torch.save_file(converted, tmp_path / "mine.safetensors", metadata={"format": "pt"})
    same = load(f"{embedded.NAME}@96={tmp_path / 'mine.safetensors'}")
    assert fingerprint(same.encoder) == fingerprint(run.encoder) and same.preprocess.size == 96
    assert same.provenance["licence"] == "apache-2.0" and capsys.readouterr().err == ""


@pytest.mark.skipif(embedded._installed() is None, reason="needs the extra nearfar[known]")
def test_the_real_weights_are_known_by_their_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path))
    file = embedded.weights()
    assert figures(f"{embedded.NAME}={file}") == HALF


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('code of the pickle ran')",)


def test_even_the_right_file_runs_no_code(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"a": Malicious()}, package)
    monkeypatch.setattr(embedded, "SHA256", hashlib.sha256(package.read_bytes()).hexdigest())
    with pytest.raises(Exception, match="eights"):
        load("known")
    assert not embedded._kept().exists()

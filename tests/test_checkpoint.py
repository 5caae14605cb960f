"""What is written is whole, what is read back is equal, and nothing that was saved is lost on the way."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys

import forkserver
import pytest
import torch
from small_store import INFO, table
from torch import nn

from nearfar.core.errors import NearfarError
from nearfar.stores import open_store
from nearfar.training import checkpoint
from nearfar.training.earlier_run import clear, find_earlier


def trained(optimizer: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    net.to(memory_format=torch.channels_last)
    made = {
        "adamw": lambda: torch.optim.AdamW(net.parameters(), 1e-2, fused=True),
        "sgd": lambda: torch.optim.SGD(net.parameters(), 1e-2, momentum=0.9),
    }[optimizer]()
    step(net, made, 3)
    return net, made


def step(net: nn.Module, optimizer: torch.optim.Optimizer, times: int) -> None:
    images = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    for _ in range(times):
        optimizer.zero_grad()
        net(images.to(memory_format=torch.channels_last)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_a_restored_pair_trains_on_to_the_same_bits(tmp_path, kind):
    net, optimizer = trained(kind)
    tensors, numbers = checkpoint.state_of(net, optimizer)
    checkpoint.save(tmp_path / "last.safetensors", tensors, {"numbers": numbers, "step": 3})
    step(net, optimizer, 4)

    other, fresh = trained(kind)
    step(other, fresh, 2)  # somewhere else altogether
    read, facts = checkpoint.read(tmp_path / "last.safetensors")
    assert facts["step"] == 3
    checkpoint.restore(other, fresh, read, facts["numbers"])
    step(other, fresh, 4)
    for name, value in net.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


@pytest.mark.parametrize("fused", [True, False])
def test_steps_are_counted_where_torch_counts_them(fused):
    """A fused optimizer on a GPU refuses a count on the CPU; a device without memory stands for the GPU."""
    net = nn.Linear(3, 2)
    net.scale = nn.Parameter(torch.tensor(1.0))
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    (net(torch.ones(4, 3)) * net.scale).sum().backward()
    optimizer.step()
    tensors, numbers = checkpoint.state_of(net, optimizer)
    there = nn.Linear(3, 2)
    there.scale = nn.Parameter(torch.tensor(1.0))
    there = there.to("meta")
    other = torch.optim.AdamW(there.parameters(), 1e-2)
    other.param_groups[0]["fused"] = fused
    told = optimizer.state_dict()
    told["param_groups"][0]["fused"] = fused
    other.load_state_dict(told)
    wanted = {what: x.device for what, x in other.state[there.weight].items()}
    assert wanted["step"].type == ("meta" if fused else "cpu")
    checkpoint.restore(there, other, tensors, numbers)
    for weight in there.parameters():
        assert {what: x.device for what, x in other.state[weight].items()} == wanted


def test_a_full_disk_leaves_the_old_file_and_says_what_to_do(tmp_path):
    path = tmp_path / "last.safetensors"
    checkpoint.write(path, b"old")
    code = (
        "import resource, sys; from pathlib import Path; from nearfar.training import checkpoint\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: checkpoint.write(Path(sys.argv[1]), b'x' * 5000)\n"
        "except checkpoint.NearfarError as error: print(error)"
    )
    said = forkserver.run(code, path, check=True)
    assert "is too full for last.safetensors" in said.stdout and "free some space" in said.stdout
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["last.safetensors"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1000  # the limit was the other process's


def test_damaged_files_are_named(tmp_path):
    (tmp_path / "last.safetensors").write_bytes(b"not a tensor in sight")
    with pytest.raises(NearfarError, match="last.safetensors is damaged"):
        checkpoint.read(tmp_path / "last.safetensors")
    (tmp_path / "config.json").write_text("[1, 2")
    with pytest.raises(NearfarError, match="config.json cannot be read"):
        checkpoint.read_json(tmp_path / "config.json")


def test_a_share_that_is_missing_or_of_another_save_is_named(tmp_path):
    path, facts = tmp_path / "last.safetensors", {"step": 3, "run": "a"}
    for step in (2, 3):
        checkpoint.save_shared(path, {"y": torch.ones(2)}, {"x": torch.eye(step)}, {**facts, "step": step})
    read, told = checkpoint.read(path)
    assert torch.equal(read["x"], torch.eye(3)) and read["y"].sum() == 2 and told == {**facts, "world": 1}
    (share,) = (tmp_path / checkpoint.SHARED).iterdir()
    checkpoint.save(share, {"x": torch.eye(3)}, {**facts, "run": "b"})
    with pytest.raises(NearfarError, match="last/3-0-of-1.safetensors is of another save"):
        checkpoint.read(path)
    checkpoint.save(path, {}, {**facts, "world": 2})
    share.unlink()
    with pytest.raises(NearfarError, match="last/3-0-of-2.safetensors is damaged or missing"):
        checkpoint.read(path)
    (tmp_path / "last" / "3-1-of-2.safetensors").touch()
    checkpoint.write_json(tmp_path / "config.json", {})
    assert find_earlier(tmp_path, {"data": "photos"}) is None  # --overwrite
    clear(tmp_path)
    assert [*tmp_path.iterdir()] == []


def test_the_log_drops_what_came_after_the_last_save_and_a_torn_line(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    log = checkpoint.Log(path, 2)
    log.add({"step": 3, "loss": 1.5})
    log.close()
    assert checkpoint.read_log(path, {}) == [{"step": 1}, {"step": 2}, {"step": 3, "loss": 1.5}]


def test_a_read_only_place_is_a_sentence(tmp_path):
    code = (
        "import sys; from pathlib import Path; from nearfar.training import checkpoint\n"
        "try: checkpoint.write_json(Path(sys.argv[1]) / 'evaluation.json', {})\n"
        "except checkpoint.NearfarError as error: print(error)\n"
        "from nearfar.cli.main import main\n"
        "store, out = sys.argv[1] + '/s.nf', sys.argv[1] + '/out'\n"
        "main(['map', store])\n"
        "assert main(['anomalies', store, '--out', out + '.csv']) == 2\n"
        "assert main(['report', 'x', '--out', out + '.html']) == 2\n"
        "for words in (['clusters', store], ['duplicates', store]):\n"
        "    assert main([*words, '--save', 'found']) == 2\n"
    )
    open_store(tmp_path / "s.nf", INFO).upsert(table([f"{k}.png" for k in range(12)]))
    mounts = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" || exit 77; exec "$2" -c "$3" "$1"'
    words = ["unshare", "-rm", "sh", "-c", mounts, "sh", str(tmp_path), sys.executable, code]
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare")
    said = subprocess.run(words, capture_output=True, text=True)
    if said.returncode == 77 or "unshare failed" in said.stderr or "Operation not permitted" in said.stderr:
        pytest.skip("needs the right to mount")
    assert "evaluation.json cannot be written (Read-only file system)" in said.stdout, said.stderr
    assert "map_x" in said.stdout and "The coordinates are not kept" in said.stdout, said.stderr
    for name in ("out.csv", "out.html"):
        assert f"{name} cannot be written: its folder is read-only" in said.stderr
    assert said.stderr.count("s.nf cannot be written: it is read-only") == 2  # before the work

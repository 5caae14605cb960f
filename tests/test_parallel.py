"""One process is the identity; two processes gather, sum and agree, with the right gradients."""

import socket

import pytest
import torch
from processes import two

from nearfar.core import collectives, distributed
from nearfar.core.errors import NearfarError


def launch(monkeypatch: pytest.MonkeyPatch, **words: str) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, word in words.items():
        monkeypatch.setenv(name, word)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"WORLD_SIZE": "2"}, "without RANK and MASTER_ADDR and MASTER_PORT; .*unset WORLD_SIZE"),
        ({"WORLD_SIZE": "two", "RANK": "0"}, "without MASTER_ADDR"),
        ({"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, "launch with torchrun"),
        ({"WORLD_SIZE": "-1", "RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, "launch with torchrun"),
    ],
)
def test_what_a_launch_left_in_the_environment_is_named(
    monkeypatch: pytest.MonkeyPatch, words: dict[str, str], said: str
) -> None:
    launch(monkeypatch, **words)
    with pytest.raises(NearfarError, match=said):
        distributed.start("cpu")
    launch(monkeypatch, RANK="1", LOCAL_RANK="1")  # of one process
    assert distributed.launched() == 1


def test_a_process_whose_others_never_come_says_so_and_gives_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    launch(monkeypatch, WORLD_SIZE="2", RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    monkeypatch.setattr(distributed, "_JOINING", 1.0)
    monkeypatch.setattr(distributed, "_NOTE", 0.05)
    with pytest.raises(NearfarError, match="of 2 .*unset WORLD_SIZE"):
        distributed.start("cpu")
    assert "process 0 of 2 waits" in capsys.readouterr().err
    launch(monkeypatch, WORLD_SIZE="2", RANK="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="1")
    with pytest.raises(NearfarError, match="process 1 of 2 finds no others at 127.0.0.1:1"):
        distributed.start("cpu")


def test_alone_everything_is_the_identity():
    x = torch.rand(3, 2, requires_grad=True)
    assert (distributed.world(), distributed.rank(), distributed.first()) == (1, 0, True)
    assert collectives.gather(x) is x and collectives.total(x) is x
    assert not collectives.gather(x, grad=False).requires_grad
    assert distributed.same({"a": (1, "b")}) == {"a": [1, "b"]}
    assert distributed.start("cpu") == torch.device("cpu")
    distributed.barrier()
    distributed.stop()


def test_two_processes_gather_and_sum_with_gradients():
    weights = torch.arange(12, dtype=torch.float64).view(4, 3)
    for rank, found in enumerate(two("words")):
        assert torch.equal(found["gathered"], torch.tensor([1.0, 1, 2, 2]).double()[:, None].expand(4, 3))
        # the two losses weigh the gathered rows by 1 and by 2 times `weights`
        assert torch.equal(found["x_grad"], 3 * weights[2 * rank : 2 * rank + 2])
        assert torch.equal(found["summed"], torch.full((2,), 3.0).double())
        assert torch.equal(found["y_grad"], torch.full((2,), 2 * 3.0 * (1 + 2)).double())
        assert found["waited"] == rank + 1  # process 0 went ahead


def test_a_device_that_cannot_be_shared_is_refused(monkeypatch):
    launch(monkeypatch, WORLD_SIZE="2", RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="1")
    with pytest.raises(NearfarError, match="--device cpu"):
        distributed.start("mps")
    if torch.cuda.device_count() < 2:
        monkeypatch.setenv("LOCAL_RANK", "1")
        with pytest.raises(NearfarError, match="has no GPU"):
            distributed.start("cuda")

"""One process is the identity; two processes gather, sum and agree, with the right gradients."""

import pytest
import torch
from processes import two

from nearfar.core import distributed
from nearfar.core.errors import NearfarError


def test_alone_everything_is_the_identity():
    x = torch.rand(3, 2, requires_grad=True)
    assert (distributed.world(), distributed.rank(), distributed.first()) == (1, 0, True)
    assert distributed.gather(x) is x and distributed.total(x) is x
    assert not distributed.gather(x, grad=False).requires_grad
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


def test_a_device_that_cannot_be_shared_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(NearfarError, match="--device cpu"):
        distributed.start("mps")
    if torch.cuda.device_count() < 2:
        monkeypatch.setenv("LOCAL_RANK", "1")
        with pytest.raises(NearfarError, match="has no GPU"):
            distributed.start("cuda")

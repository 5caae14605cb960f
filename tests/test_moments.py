"""Mean and variance in two passes."""

from __future__ import annotations

import pytest
import torch

from nearfar.core.moments import moments


@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("correction", [0, 1])
@pytest.mark.parametrize("dims", [2, -1, (2, 3), (-3, -2, -1)])
def test_they_are_torchs(dims: int | tuple[int, ...], correction: int, keepdim: bool) -> None:
    x = torch.randn(3, 4, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 10
    variance, mean = torch.var_mean(x, dims, correction=correction, keepdim=keepdim)
    found = moments(x, dims, correction=correction, keepdim=keepdim)
    torch.testing.assert_close(found, (mean, variance), rtol=1e-12, atol=0)


def test_values_far_from_zero_keep_their_variance() -> None:
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) + 1000
    torch.testing.assert_close(
        moments(x, (2, 3))[1], x.double().var((2, 3), correction=0).float(), rtol=1e-3, atol=0
    )


def test_gradients_and_the_tensor_itself_stay() -> None:
    x = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda y: moments(y, (1, 2)), x)
    before = x.detach().clone()
    with torch.no_grad():
        moments(x, 2)
    assert torch.equal(x, before)

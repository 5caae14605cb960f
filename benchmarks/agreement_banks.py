"""Do NPID and PIRL agree with VISSL's loss with a memory bank?

    .bench/bin/python -m benchmarks.agreement_banks

prints a line a method and ends with 1 if one disagrees. VISSL's loss is by an author of PIRL, from the code
of NPID's authors. It draws negatives itself; it is given ours, and for the exact form all other rows. It adds
1e-7 below its fractions, here 0. Its temperature and its z are kept in float32, so they are numbers that
float32 has. The bank after a step is compared too.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nearfar import losses

from .agreement_pair import Pair, drawn, made, report, verdict

N, WIDTH, IMAGES, DRAWN = 8, 16, 40, 12


def vissl(
    kind: str, weights: list[float], at: int, chosen: Tensor, z: float, tau: float, bank: Tensor
) -> Any:
    """Build VISSL's loss with a bank; `at` says which of its inputs moves the bank."""
    # The file alone: the folder's others need packages of 2021.
    found = importlib.util.find_spec("vissl")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'vissl'")
    path = Path(found.submodule_search_locations[0]) / "losses" / "nce_loss.py"
    spec = importlib.util.spec_from_file_location("vissl_nce_loss", path)
    assert spec is not None and spec.loader is not None
    if "vissl_nce_loss" not in sys.modules:  # it registers its name, which can be done once
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules["vissl_nce_loss"] = module
    from vissl.config import AttrDict

    memory = {"embedding_dim": WIDTH, "momentum": 0.5, "norm_init": True, "update_mem_on_forward": False}
    config = {
        "loss_type": kind,
        "norm_embedding": False,
        "temperature": tau,
        "norm_constant": z,
        "update_mem_with_emb_index": at,
        "loss_weights": weights,
        "negative_sampling_params": {"num_negatives": chosen.shape[1] - 1, "type": "random"},
        "memory_params": memory,
        "num_train_samples": IMAGES,
    }
    loss = sys.modules["vissl_nce_loss"].NCELossWithMemory(AttrDict(config)).double()
    average = loss.nce_average
    average.memory = bank.clone()
    average.do_negative_sampling = lambda embedding, y, num_negatives: chosen
    loss.sync_memory = lambda: None  # there is one process
    if kind == "nce":
        loss.nce_criterion.eps = 0.0
    return loss


def bank(name: str, exact: bool) -> Callable[[], Pair]:
    """NPID, and PIRL whose tiles have another weight than the image: from N images of a bank of more."""

    def pair() -> Pair:
        tau, z, rows = 0.125, 1.5 * IMAGES, torch.arange(N) * 3
        settings: dict[str, Any] = {"temperature": tau, "width": WIDTH}
        weight = 0.25
        if name == "pirl":
            settings["lambda_"] = weight
        ours = made(name, IMAGES, **settings)
        memory = losses.unit(drawn(IMAGES, WIDTH, seed=1))
        ours.memory.rows = memory.clone()
        ours.log_normalizer.fill_(math.log(z / IMAGES))
        ours.settled.fill_(10)
        others = torch.stack([torch.tensor([j for j in range(IMAGES) if j != i]) for i in rows.tolist()])
        negatives = others[:, :0]
        if not exact:
            negatives = others = others[:, torch.randperm(IMAGES - 1)[:DRAWN]]
        chosen = torch.cat([rows[:, None], others], 1)
        weights = [1.0] if name == "npid" else [weight, 1 - weight]
        theirs = vissl("cross_entropy" if exact else "nce", weights, len(weights) - 1, chosen, z, tau, memory)

        def vectors(*raw: Tensor) -> list[Tensor]:
            return [losses.unit(each) for each in raw]

        def given(*raw: Tensor) -> Tensor:
            theirs.nce_average.memory = memory.clone()
            found: Tensor = theirs(vectors(*reversed(raw)), rows).sum()  # the image last: it moves the bank
            return found

        def own(*raw: Tensor) -> Tensor:
            total: Tensor = ours.loss(*vectors(*raw), rows, negatives).total
            return total

        inputs = [drawn(N, WIDTH, seed=7 + k) for k in range(len(weights))]
        ours.after_step(0.0, ours.loss(*vectors(*inputs), rows, negatives).watched)
        given(*inputs)
        torch.testing.assert_close(ours.memory.rows, theirs.nce_average.memory, rtol=0, atol=1e-12)
        ours.memory.rows = memory.clone()
        return own, given, inputs

    return pair


CHECKS: dict[str, Callable[[], Pair]] = {
    "npid, VISSL": bank("npid", exact=True),
    "npid --bank-negatives 12, VISSL": bank("npid", exact=False),
    "pirl, VISSL": bank("pirl", exact=True),
    "pirl --bank-negatives 12, VISSL": bank("pirl", exact=False),
}


if __name__ == "__main__":
    sys.exit(verdict(report(CHECKS, {})))

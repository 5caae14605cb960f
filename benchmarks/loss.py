"""What NT-Xent costs, memory and time, forward and backward, at growing batches: compared with three others.

Each value comes from a fresh process with one thread: D = 128, tau = 0.1, inputs made and a small batch
computed first; then memory is the peak above what the process held, and time that of the same pass.
Contenders take turns within each round. N counts pairs: 2N rows.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import measure
from .measure import Spread
from .scoreboard import Asked
from .table import Bar, Row, Section

WIDTH, TAU = 128, 0.1
SIZES = (1024, 2048, 4096, 8192, 16384)
BEYOND = (32768, 65536)
MEMORY, FASTER = 90.0, 13.0  # what is asked of N = 8,192: MiB, and times lightly's speed
MOST_BYTES, MOST_SECONDS = 12e9, 60.0
PATIENCE = 30.0  # seconds at most, where nobody asked for thoroughness
PLOT = Path(__file__).parent / "loss-memory.png"
Loss = Callable[[Tensor, Tensor], Tensor]


def ours() -> Loss:
    from nearfar.losses import nt_xent, unit

    return lambda z_i, z_j: nt_xent(unit(z_i), unit(z_j), TAU)


def lightly() -> Loss:
    from lightly.loss import NTXentLoss

    return NTXentLoss(temperature=TAU)


def metric_learning() -> Loss:
    from pytorch_metric_learning.losses import NTXentLoss

    criterion = NTXentLoss(temperature=TAU)

    def loss(z_i: Tensor, z_j: Tensor) -> Tensor:
        names = torch.arange(len(z_i)).repeat(2)
        found: Tensor = criterion(torch.cat([z_i, z_j]), names)
        return found

    return loss


def chunked() -> Loss:
    """torch's own chunked cross-entropy. It cannot leave a row's own similarity out, so its value differs."""
    options = torch.nn.LinearCrossEntropyOptions()  # type: ignore[attr-defined]

    def loss(z_i: Tensor, z_j: Tensor) -> Tensor:
        z = F.normalize(torch.cat([z_i, z_j]))
        partner = torch.arange(len(z)).roll(len(z) // 2)
        found: Tensor = F.linear_cross_entropy(z / TAU, z, partner, options=options)  # type: ignore[attr-defined]
        return found

    return loss


def checkpointed(rows: int = 512) -> Loss:
    """The plain exact way to save memory: dense cross-entropy over chunks of rows, computed twice."""
    from torch.utils.checkpoint import checkpoint

    def part(z: Tensor, start: int) -> Tensor:
        logits = z[start : start + rows] @ z.T / TAU
        own = torch.arange(start, start + len(logits))
        logits = logits.index_put((torch.arange(len(logits)), own), logits.new_tensor(-math.inf))
        return F.cross_entropy(logits, (own + len(z) // 2) % len(z), reduction="sum")

    def loss(z_i: Tensor, z_j: Tensor) -> Tensor:
        z = F.normalize(torch.cat([z_i, z_j]))
        parts = [checkpoint(part, z, start, use_reentrant=False) for start in range(0, len(z), rows)]
        return torch.stack(parts).sum() / len(z)  # type: ignore[arg-type]

    return loss


CONTENDERS: dict[str, Callable[[], Loss]] = {
    "nearfar": ours,
    "lightly": lightly,
    "torch, linear_cross_entropy": chunked,
    "torch, checkpointed chunks": checkpointed,
    "pytorch-metric-learning": metric_learning,
}
# How memory and time grow with N, to foresee what would not fit: dense is square, a triple of all is cubic.
GROWTH = {"nearfar": (1, 2), "lightly": (2, 2), "pytorch-metric-learning": (3, 3)}


def child(who: str, n: int) -> dict[str, float]:
    """Measure one contender at one size, in this process: MiB above the inputs, seconds, and the value."""
    loss = CONTENDERS[who]()
    generator = torch.Generator().manual_seed(0)

    def inputs(rows: int) -> tuple[Tensor, Tensor]:
        middle = torch.randn(rows, WIDTH, generator=generator)
        z_i, z_j = (middle + 0.5 * torch.randn(rows, WIDTH, generator=generator) for _ in range(2))
        return z_i.requires_grad_(), z_j.requires_grad_()

    def both(pair: tuple[Tensor, Tensor]) -> float:
        value = loss(*pair)
        value.backward()
        return float(value.detach())

    both(inputs(32))
    pair, found = inputs(n), {}

    def work() -> None:
        found["value"] = both(pair)

    found["seconds"] = 0.0
    timed = measure.clocked(work)

    def measured() -> None:
        found["seconds"] = timed()

    found["memory"] = max(measure.peak_above(measured), 0.1)  # less cannot be told from nothing
    return found


def foreseen(who: str, n: int, last: tuple[int, dict[str, float]] | None, limit: float = MOST_SECONDS) -> str:
    """Say why a size is left out, judging by the last one; an empty word if it is not."""
    if last is None:
        return ""
    smaller, found = last
    memory, seconds = GROWTH.get(who, (1, 2))
    needed = found["memory"] * (n / smaller) ** memory * 2**20
    taking = found["seconds"] * (n / smaller) ** seconds
    if needed > MOST_BYTES:
        return f"left out: would take about {needed / 1e9:,.0f} GB"
    return f"left out: would take about {taking:,.0f} s" if taking > limit else ""


def rounds(n: int, wanted: Asked) -> int:
    """Choose how often to measure a size: the larger, the less often."""
    return min(wanted.rounds, {1024: 3, 8192: 2}.get(n, 1))


def at(n: int, wanted: Asked, last: dict[str, tuple[int, dict[str, float]]]) -> list[Row]:
    """Measure every contender at one size, in turns; `last` keeps what each cost."""
    found: dict[str, list[dict[str, float]]] = {}
    limit = MOST_SECONDS if wanted.thorough else PATIENCE
    dropped = {who: why for who in CONTENDERS if (why := foreseen(who, n, last.get(who), limit))}
    for _ in range(rounds(n, wanted)):
        for who in CONTENDERS:
            if who in dropped:
                continue
            try:
                found.setdefault(who, []).append(measure.fresh("loss", threads=1, who=who, n=n))
            except measure.Failed as failed:
                dropped[who] = str(failed)
                found.pop(who, None)
    rows = []
    for key, unit in (("memory", "MiB"), ("seconds", "s")):
        for who in CONTENDERS:
            case = f"{'memory' if key == 'memory' else 'time'}, N = {n:,}"
            if who in dropped:
                rows.append(Row(case, who, None, unit, note=dropped[who]))
                continue
            values = [item[key] for item in found[who]]
            mine = [item[key] for item in found.get("nearfar", [])]
            gain = measure.gain(mine, values, more_is_better=False) if who != "nearfar" and mine else None
            note = f"loss {found[who][0]['value']:.5f}" if key == "memory" else ""
            if who == "torch, linear_cross_entropy" and note:
                note += ", a row's own similarity included"
            rows.append(Row(case, who, Spread.of(values), unit, gain, note))
            last[who] = (n, found[who][0])
    return rows


def plot(memory: dict[str, dict[int, float]]) -> None:
    """Draw memory against N for everyone, on logarithmic scales."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), dpi=120)
    for who, points in memory.items():
        axes.loglog(list(points), list(points.values()), marker="o", label=who)
    axes.set_xlabel("N, pairs in a batch")
    axes.set_ylabel("MiB above the inputs, forward and backward")
    axes.set_title(f"NT-Xent, D = {WIDTH}, float32, one thread")
    axes.grid(visible=True, which="both", alpha=0.25)
    axes.legend()
    figure.tight_layout()
    figure.savefig(PLOT)
    pyplot.close(figure)


def memories(rows: list[Row]) -> dict[str, dict[int, float]]:
    """Pick the middle memory of every contender and size."""
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        if row.case.startswith("memory") and row.figure is not None:
            size = int(row.case.rpartition(" ")[2].replace(",", ""))
            found.setdefault(row.who, {})[size] = row.figure.middle
    return found


def power(held: dict[int, float]) -> float:
    """Fit the power of N with which memory grows, by least squares of the logarithms."""
    x, y = ([math.log(value) for value in values] for values in (held, held.values()))
    return statistics.linear_regression(x, y).slope


def profile(n: int) -> str:
    """Tell which operations of torch's library a pass of ours takes its time for, on one core."""
    from torch.profiler import ProfilerActivity, profile

    from nearfar.core.threads import one_torch_thread

    kinds = {"matrix products": "aten::mm aten::addmm", "exponentials": "aten::exp"}
    loss, z = ours(), [torch.randn(n, WIDTH, requires_grad=True) for _ in range(2)]
    with one_torch_thread():
        loss(*z).backward()
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            loss(*z).backward()
    spent = {event.key: event.self_cpu_time_total for event in seen.key_averages()}
    parts = {
        name: sum(value for key, value in spent.items() if key.rstrip("_") in words.split())
        for name, words in kinds.items()
    }
    told = ", ".join(f"{name} {value / sum(spent.values()):.0%}" for name, value in parts.items())
    products = (
        4 * 2 * WIDTH * (2 * n) ** 2 / 2
    )  # forward, again backward, and two gradients; half of all pairs
    return f"{told}; {products / parts['matrix products'] / 1e3:.0f} GFLOP/s in the products"


def run(wanted: Asked) -> Section:
    """Measure every size, then ours far beyond."""
    section = Section((__doc__ or "").partition("\n\n")[2].strip().replace("\n", " "))
    last: dict[str, tuple[int, dict[str, float]]] = {}
    # The small size is where pytorch-metric-learning still fits.
    for n in (64, 128) if wanted.quick else (256, *SIZES):
        section.rows += at(n, wanted, last)
    for n in (256,) if wanted.quick else BEYOND if wanted.thorough else ():
        try:
            found: Any = measure.fresh("loss", threads=1, who="nearfar", n=n, timeout=900.0)
            section.rows.append(Row(f"memory, N = {n:,}", "nearfar", Spread.of([found["memory"]]), "MiB"))
            section.rows.append(Row(f"time, N = {n:,}", "nearfar", Spread.of([found["seconds"]]), "s"))
        except measure.Failed as failed:
            section.rows.append(Row(f"memory, N = {n:,}", "nearfar", None, "MiB", note=str(failed)))
    memory = memories(section.rows)
    for row in section.rows:
        if row.case == "memory, N = 8,192" and row.who == "nearfar" and row.figure:
            text = f"N = 8,192, one core: memory above the inputs at most {MEMORY:g} MiB"
            held = row.figure.middle
            section.bars.append(Bar(text, held <= MEMORY, f"{held:.3g} MiB (middle)"))
        if row.case == "time, N = 8,192" and row.who.startswith("lightly") and row.gain:
            text = f"N = 8,192, one core: at least {FASTER:g} times as fast as lightly's"
            section.bars.append(Bar(text, row.gain.middle >= FASTER, f"{row.gain.middle:.3g} times (middle)"))
    mine = {n: held for n, held in memory.get("nearfar", {}).items() if n >= SIZES[0]}
    if len(mine) > 2:
        growth = power(mine)
        told = f"from N = {min(mine):,} to {max(mine):,} it grows as N^{growth:.2f}"
        section.bars.append(Bar("memory linear in N", growth <= 1.05, told))
    n = 128 if wanted.quick else 4096
    section.notes.append(
        f"Where our time goes, N = {n:,}, one core: {profile(n)}. Half of all pairs are computed, once "
        "forward and once backward, since none is kept; the products run at what the core gives, so that "
        "only bfloat16, which would cost the exactness of the loss, could save much more."
    )
    if not wanted.quick:
        try:
            plot(memory)
            section.notes.append(f"![memory against N]({PLOT.name})")
        except ImportError as failed:
            section.notes.append(f"No plot: {measure.reason(failed)}.")
    return section

"""What a run writes and prints during training: log, checkpoints, progress line; and how signals stop it."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import torch

from ..core import collectives, distributed, locks, memory, progress
from ..core.errors import NearfarError
from ..methods.base import Method
from . import checkpoint, run_shapes
from .engine import Step
from .parallel import is_shared
from .schedule import StepPlan
from .settings import Training


class RunLogger:
    """Follows the steps of one session; only the first process writes."""

    def __init__(
        self,
        folder: Path,
        method: Method,
        optimizer: torch.optim.Optimizer,
        training: Training,
        *,
        images: int,
        plan: StepPlan,
        started: int,
        seconds: float,
        timed: bool,
        digest: str = "",
        remedy: str = "a lower --lr or a higher --temperature",
        noun: str = "images",
    ) -> None:
        """Open the log at the step at which training resumes.

        Args:
            folder: the run folder.
            method: the module in training.
            optimizer: its optimizer.
            training: the run's settings.
            images: usable images there are.
            plan: as it stands now.
            started: steps done before.
            seconds: spent in earlier sessions.
            timed: whether a time budget is kept, so that saves must hold the time spent.
            digest: of the run, which its saves carry.
            remedy: what to try where the loss is no longer a number.
            noun: the word for what is trained on.
        """
        self.remedy, self.noun = remedy, noun
        self.folder, self.method, self.optimizer, self.training = folder, method, optimizer, training
        self.started, self.earlier, self.timed, self.digest = started, seconds, timed, digest
        self.epoch_steps = images // training.batch_size
        self.every = max(1, min(50, plan.stretches[0][1] // 200))
        memory.forget_peak()
        self.began = self.saved = time.monotonic()
        self.printed = 0.0
        self.writes = distributed.first()
        self.log = checkpoint.Log(folder / "log.jsonl", started) if self.writes else None
        if not timed:
            lines = checkpoint.read_log(folder / "log.jsonl", run_shapes.LOG)
            self.earlier = float(lines[-1]["seconds"]) if lines else 0.0
        self.board = _board(folder) if self.writes and training.tensorboard else None

    def note(self, step: Step) -> None:
        """Log a step and print the progress line, when it is time.

        Args:
            step: just done.

        Raises:
            NearfarError: the loss is no longer a number.
        """
        if step.number == self.started + 1 and self.writes and progress.shown():
            float(step.loss)  # waits for the device
            progress.say(f"the first step is done, after {time.monotonic() - self.began:.1f} s.")
        if step.number % self.every and not step.last:
            return
        figures = self._figures(step)  # on every process: some figures are sums over all of them
        self._finite(step, figures["loss"])
        if self.log is None:
            return
        self.log.add(figures)
        if self.board is not None:
            for name, value in figures.items():
                self.board.add_scalar(name, value, step.number)
        now, terminal = time.monotonic(), progress.on_terminal()
        if progress.shown() and (step.last or now - self.printed >= (0.5 if terminal else 10.0)):
            self.printed = now
            progress.redraw(self._line(step, figures), last=step.last)

    def due(self) -> bool:
        """Tell whether the last save is as old as the settings allow."""
        return time.monotonic() - self.saved > 60.0 * self.training.save_minutes

    def save(self, step: Step) -> None:
        """Save where training stands, unless something is broken.

        Args:
            step: just done.

        Raises:
            NearfarError: a weight is no longer a number, or the disk is full; the last save is intact.
        """
        self.saved = time.monotonic()
        shared = is_shared(self.method)
        if not self.writes and not shared:
            return
        own: dict[str, torch.Tensor] = {}
        tensors, numbers = checkpoint.state_of(self.method, self.optimizer, own)
        weights = (value for name, value in (*tensors.items(), *own.items()) if name.startswith("method."))
        sound = all(bool(torch.isfinite(value).all()) for value in (step.loss, *weights))
        broken = step.loss.detach().new_tensor(not sound)
        if bool(collectives.total(broken) if shared else broken):  # all stop, or none
            self._finite(step, float("nan"))
        spent = self.earlier + time.monotonic() - self.began if self.timed else None
        facts = {"step": step.number, "plan": step.plan.stretches, "numbers": numbers, "seconds": spent}
        facts["run"] = self.digest
        last = self.folder / checkpoint.LAST
        if shared:
            checkpoint.save_shared(last, tensors, own, facts)
        else:
            checkpoint.save(last, tensors, facts)
            checkpoint.remove_shares(self.folder)

    def close(self) -> None:
        """Close the log."""
        for book in (self.log, self.board):
            if book is not None:
                book.close()

    def _figures(self, step: Step) -> dict[str, Any]:
        """Gather one line of the log. Reads from the device, which is why not every step is logged."""
        seconds = max(time.monotonic() - self.began, 1e-9)
        figures: dict[str, Any] = {"step": step.number, "epoch": round(step.number / self.epoch_steps, 4)}
        figures["loss"] = float(collectives.total(step.loss)) / distributed.world()
        if len(step.terms) > 1:
            world = distributed.world()
            figures |= {name: float(collectives.total(term)) / world for name, term in step.terms.items()}
        figures |= {name: float(value) for name, value in self.method.metrics(step.watched).items()}
        figures["lr"] = step.lr
        if (peak := memory.peak(step.loss.device)) is not None:
            figures["peak_mib"] = peak
        pace = (step.number - self.started) * self.training.batch_size / seconds
        figures["images_per_second"] = round(pace, 1)
        figures["waiting"] = round(step.waited / seconds, 4)
        figures["seconds"] = round(self.earlier + seconds, 3)
        return figures

    def _line(self, step: Step, figures: dict[str, Any]) -> str:
        seconds = time.monotonic() - self.began
        left = seconds / (step.number - self.started) * (step.plan.steps - step.number)
        accuracy = figures.get("contrastive_accuracy")
        words = [
            f"step {step.number:,} of {step.plan.steps:,}",
            f"loss {figures['loss']:.3f}",
            *([f"contrastive accuracy {accuracy:.1%}"] if accuracy is not None else []),
            f"rate {step.lr:.2g}",
            f"{figures['images_per_second']:,.0f} {self.noun}/s",
            f"waiting for data {figures['waiting']:.1%}",
            f"{progress.duration(left)} left",
        ]
        return ", ".join(words)

    def _finite(self, step: Step, loss: float) -> None:
        """Stop before anything broken is logged or saved."""
        if torch.isfinite(torch.tensor(loss)):
            return
        last = self.folder / checkpoint.LAST
        kept = (
            f"the save of step {checkpoint.read(last, run_shapes.SAVE)[1]['step']:,} is intact"
            if last.exists()
            else "nothing was saved"
        )
        raise NearfarError(
            f"training failed at step {step.number:,}: the loss or a weight is no longer a number "
            f"({kept}); start again with --overwrite and {self.remedy}."
        )


def _board(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise NearfarError("--tensorboard needs TensorBoard: pip install 'nearfar[tensorboard]'.") from error
    return SummaryWriter(str(folder / "tensorboard"))


class Caught:
    """The signals that came: some ask to stop, SIGUSR1 to save and go on."""

    def __init__(self) -> None:
        self._stop, self._save = 0, False

    def note(self, number: int, frame: Any) -> None:
        """Note a signal; after the first that asks to stop, others change nothing."""
        if number == getattr(signal, "SIGUSR1", None):
            self._save = True
        else:
            self._stop = self._stop or number

    def told(self) -> tuple[int, bool]:
        """Give the signal that asks to stop, or 0; and whether one asked to save since the last call."""
        save, self._save = self._save, False
        return self._stop, save


@contextmanager
def signals() -> Iterator[Caught]:
    """Note Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 instead of dying of them.

    A second one changes nothing: it must not cut short the save that the first asked for. SIGHUP stays
    ignored where nohup has it ignored.
    """
    caught = Caught()
    wanted = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        wanted.append(signal.SIGHUP)
    if hasattr(signal, "SIGUSR1"):
        wanted.append(signal.SIGUSR1)
    try:
        old = {number: signal.signal(number, caught.note) for number in wanted}
    except ValueError:  # not in the main thread: the calling program handles signals
        yield caught
        return
    try:
        yield caught
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def end_by(number: int, said: str) -> NoReturn:
    """End the process as a signal asks for.

    Args:
        number: of the signal.
        said: what was kept, and how to go on.

    Raises:
        KeyboardInterrupt: Ctrl-C; SystemExit: another signal.
    """
    if number == signal.SIGINT:
        raise KeyboardInterrupt(said)
    progress.say(said)
    sys.exit(128 + number)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run folder for this run alone; the system lets go of it however the process ends.

    Args:
        folder: made if missing.

    Raises:
        NearfarError: it cannot be made or written, or another process holds it.
    """
    held = ExitStack()
    made: list[Path] = []
    before = (folder / ".lock").exists()
    try:
        made = [place for place in (folder, *folder.parents) if not place.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        if distributed.first():
            held.enter_context(locks.hold(folder / ".lock"))
    except locks.Busy:
        raise NearfarError(
            f"another process is training in {folder}; wait for it, or choose another folder with --out."
        ) from None
    except OSError as error:
        raise NearfarError(
            f"{folder} cannot be written ({error.strerror}); choose another folder with --out."
        ) from error
    try:
        yield
    finally:
        held.close()
        if distributed.first() and [item.name for item in folder.iterdir()] == [".lock"]:
            (folder / ".lock").unlink()  # it came to nothing: leave nothing behind
            with suppress(OSError):  # a folder above may hold something else by now
                for place in made:
                    place.rmdir()
        elif distributed.first() and not before and not (folder / "config.json").exists():
            (folder / ".lock").unlink(missing_ok=True)  # the folder is the user's own

"""The points of a sweep: proposed by Optuna, kept in its journal, and the same for the same seed.

The journal is a text file, one JSON object a line, that Optuna's own tools read, too. Nothing of a sampler
is kept: each proposal is computed from the seed, its number and the trials before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..core import rng
from ..core.errors import NearfarError
from ..training import checkpoint
from ..training.run_config import RunConfig
from .space import Axis, Value

JOURNAL = "optuna.log"


def require() -> None:
    """Make sure that Optuna is there.

    Raises:
        NearfarError: it is not; says how to install it.
    """
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise NearfarError("a sweep needs Optuna: pip install 'nearfar[sweep]'.") from error


class Proposals:
    """A sweep's points, one after the other; no other process may write in its folder meanwhile."""

    def __init__(self, folder: Path, axes: Sequence[Axis], seed: int) -> None:
        """Open the journal, or begin one.

        Args:
            folder: of the sweep.
            axes: what is varied.
            seed: names the draws.

        Raises:
            NearfarError: the journal is damaged.
        """
        self.path, self.axes, self.seed = folder / JOURNAL, axes, seed
        self.asked = -1  # Optuna's number of the point that is out
        _repair(self.path)
        with quiet():
            self.study = _open(self.path)

    def same(self, images: Mapping[str, Any], wanted: RunConfig) -> None:
        """Make sure that the journal's sweep is the one now asked for.

        Args:
            images: fingerprints of all data that is read, by their kind.
            wanted: the recipe, with what the user typed.

        Raises:
            NearfarError: it is another.
        """
        varied = [axis.name for axis in self.axes]
        asked = {"images": dict(images), "seed": self.seed, "varied": varied, "wanted": wanted.to_json()}
        held = self.study.user_attrs.get("nearfar")
        if held is None:
            self.study.set_user_attr("nearfar", asked)
            return
        found = RunConfig.from_json(held["wanted"], f"{self.path}: ").differences(wanted)
        found += [f"the {name} are others" for name in images if held["images"].get(name) != images[name]]
        if held["seed"] != self.seed:
            found.append(f"--seed {held['seed']} became {self.seed}")
        if not found and held["varied"] != varied:
            found.append(f"it varies {', '.join(held['varied'])}")
        if found:
            raise NearfarError(
                f"{self.path.parent} holds another sweep ({'; '.join(found)}); "
                "name another folder with --out."
            )

    def next(self) -> tuple[int, dict[str, Value]]:
        """Propose a point; what was proposed and is not finished comes first.

        Returns:
            Its number, from 0, the recipe's own, and a value for each axis.
        """
        import optuna
        from optuna.trial import TrialState

        number = len(self._trials(TrialState.COMPLETE, TrialState.PRUNED))
        for begun in self._trials(TrialState.RUNNING):
            if len(begun.params) == len(self.axes):
                self.asked = begun.number
                return number, dict(begun.params)
            self.study.tell(begun.number, state=TrialState.FAIL)  # killed amid the proposal
        if number == 0 and not self._trials(TrialState.WAITING):
            self.study.enqueue_trial({axis.name: axis.own for axis in self.axes})
        with quiet():
            key = rng.fold(self.seed, "proposal", number)
            self.study.sampler = optuna.samplers.TPESampler(seed=key % 2**32)
            trial = self.study.ask({axis.name: axis.distribution() for axis in self.axes})
        self.asked = trial.number
        return number, dict(trial.params)

    def tell(self, value: float | None) -> None:
        """Tell what came of the point that `next` gave.

        Args:
            value: the higher the better; None for a run that did not come to its end.
        """
        from optuna.trial import TrialState

        if value is None:
            self.study.tell(self.asked, state=TrialState.PRUNED)
        else:
            self.study.tell(self.asked, value)

    def _trials(self, *states: Any) -> list[Any]:
        return list(self.study.get_trials(deepcopy=False, states=states))


def _repair(path: Path) -> None:
    """Undo what a kill left: a lock, and half a last line, to which the next would be glued."""
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    text = path.read_bytes() if path.exists() else b""
    whole = text[: text.rfind(b"\n") + 1]
    if whole != text:
        checkpoint.write(path, whole)


def _open(path: Path) -> Any:
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    try:
        backend = JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path)))
        storage = optuna.storages.JournalStorage(backend)
        return optuna.create_study(
            storage=storage, study_name="sweep", direction="maximize", load_if_exists=True
        )
    except (ValueError, KeyError) as error:
        raise NearfarError(f"{path} is damaged ({error}); sweep into another folder with --out.") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna from writing on the caller's terminal."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)

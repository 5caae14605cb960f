"""The run folder: what is written while training and after, whole or not at all, and without pickle.

config.json            everything needed to repeat the run
log.jsonl              one line of figures per logged step
rejected.csv           rejected images, each with its reason
last.safetensors       where training stands: weights, optimizer state, step
last/                  what of it several processes share, a file each
encoder.safetensors    the result
parts.safetensors      what else the method keeps, if anything
encoder.json           its network, normalisation, preprocessing and provenance
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import nn

from ..core import distributed
from ..core.atomic import atomic_write
from ..core.errors import NearfarError
from ..core.shapes import COUNT, check_shape, loads
from ..core.sharded import is_sharded, local, sharded_like, whole

LAST, SHARED = "last.safetensors", "last"
ANY = {str: object}
_SHARE: dict[Any, Any] = {"step": COUNT, "run?": str}  # the facts of a process's own file


def write(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all.

    Args:
        path: where it goes.
        content: its bytes.

    Raises:
        NearfarError: the disk is full or the folder cannot be written; the old file is intact.
    """
    with atomic_write(path) as file:
        file.write(content)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a small JSON file, whole or not at all.

    Args:
        path: where it goes.
        values: plain values.
    """
    write(path, (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path, shape: Any = ANY) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Args:
        path: the file.
        shape: what the object holds, as `core.shapes` has it.

    Returns:
        Its content.

    Raises:
        NearfarError: it is missing, is not a JSON object, or has another shape.
    """
    try:
        values = loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise NearfarError(
            f"{path} cannot be read ({error}); is {path.parent} a run folder of nearfar?"
        ) from error
    if not isinstance(values, dict):
        raise NearfarError(f"{path} holds no JSON object; is {path.parent} a run folder of nearfar?")
    check_shape(values, shape, f"{path}: ")
    return values


def save(path: Path, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and a few plain facts as one safetensors file, whole or not at all.

    Args:
        path: where it goes.
        tensors: by name; they are copied to contiguous CPU memory.
        facts: plain values, kept as JSON in the file's header.
    """
    plain = {name: value.detach().to("cpu").contiguous().clone() for name, value in tensors.items()}
    write(path, to_bytes(plain, metadata={"nearfar": json.dumps(facts)}))


def read(path: Path, shape: Any = ANY) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what `save` wrote, and what `save_shared` wrote with it.

    Args:
        path: the file.
        shape: what the facts hold, as `core.shapes` has it.

    Returns:
        The tensors on the CPU, and the facts.

    Raises:
        NearfarError: it is missing or damaged, or its facts have another shape.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            facts = loads((file.metadata() or {}).get("nearfar", "{}"))
            check_shape(facts, shape, f"{path}: ")
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError, ValueError) as error:
        raise NearfarError(
            f"{path} is damaged or missing ({error}); train again with --overwrite."
        ) from error
    pieces: dict[str, list[torch.Tensor]] = {}
    for share in _shares(facts):
        own, told = read(path.parent / share, _SHARE)
        if told != {name: facts[name] for name in told}:
            raise NearfarError(f"{path.parent / share} is of another save; train again with --overwrite.")
        for name, value in own.items():
            pieces.setdefault(name, []).append(value)
    return tensors | {name: torch.cat(some) for name, some in pieces.items()}, facts


def _shares(facts: Mapping[str, Any]) -> list[str]:
    """Name the files of the processes that share a save's weights, in the order of their rows."""
    world = facts.get("world", 0)
    return [f"{SHARED}/{facts['step']}-{rank}-of-{world}.safetensors" for rank in range(world)]


def save_shared(
    path: Path, tensors: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor], facts: Mapping[str, Any]
) -> None:
    """Save what several processes share: each writes its own rows, then process 0 the rest.

    Every process must call it, on a disk that all of them see. Until process 0 has written, the save before
    is the one that is read.

    Args:
        path: of process 0's file.
        tensors, facts: what it holds, as in `save`; "step" is among the facts.
        own: this process's rows of tensors that are cut along their first axis.

    Raises:
        NearfarError: the disk is full or the folder cannot be written; the save before is intact.
    """
    facts = {**facts, "world": distributed.world()}
    (path.parent / SHARED).mkdir(exist_ok=True)
    mine = _shares(facts)[distributed.rank()]
    save(path.parent / mine, own, {name: facts[name] for name in ("step", "run") if name in facts})
    distributed.barrier()
    if distributed.first():
        save(path, tensors, facts)
        remove_shares(path.parent, keep=_shares(facts))
    distributed.barrier()


def remove_shares(folder: Path, keep: Collection[str] = ()) -> None:
    """Remove the files of processes that shared earlier saves.

    Args:
        folder: of the run.
        keep: those of the save that counts.
    """
    if not keep:
        shutil.rmtree(folder / SHARED, ignore_errors=True)
        return
    for file in (folder / SHARED).iterdir():
        if f"{SHARED}/{file.name}" not in keep:
            file.unlink(missing_ok=True)


def state_of(
    method: nn.Module, optimizer: torch.optim.Optimizer, own: dict[str, torch.Tensor] | None = None
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Gather all that training has learned: weights, buffers and optimizer state.

    Where weights are sharded every process must call it, and process 0 alone gets them, unless `own` is
    given.

    Args:
        method: the module being trained.
        optimizer: its optimizer.
        own: takes this process's rows of what is sharded, which are then not gathered.

    Returns:
        Tensors by name ("method.<name>", "optimizer.<parameter>.<what>"), and plain numbers likewise. Sharded
        ones are gathered one by one, into the memory of the CPU.
    """
    tensors: dict[str, torch.Tensor] = {}
    numbers: dict[str, Any] = {}

    def keep(name: str, value: torch.Tensor) -> None:
        if not is_sharded(value):
            tensors[name] = value
            return
        if own is not None:
            own[name] = local(value)
            return
        value = whole(value)
        if distributed.first():
            tensors[name] = value.cpu()

    for name, value in method.state_dict().items():
        keep(f"method.{name}", value)
    for name, parameter in method.named_parameters():
        for what, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor):
                keep(f"optimizer.{name}.{what}", value)
            elif value is not None:
                numbers[f"optimizer.{name}.{what}"] = value
    return tensors, numbers


def restore(
    method: nn.Module,
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, torch.Tensor],
    numbers: Mapping[str, Any],
) -> None:
    """Put back what `state_of` gathered, in place.

    Args:
        method: a module of the same make.
        optimizer: an optimizer of the same make over it.
        tensors, numbers: from `state_of`.
    """
    prefix, there = "method.", method.state_dict()
    method.load_state_dict(
        {
            (short := name[len(prefix) :]): sharded_like(value, there[short]) if short in there else value
            for name, value in tensors.items()
            if name.startswith(prefix)
        }
    )
    parameters = dict(method.named_parameters())
    fused = {weight for group in optimizer.param_groups if group.get("fused") for weight in group["params"]}
    optimizer.state.clear()
    for name, value in [*tensors.items(), *numbers.items()]:
        if not name.startswith("optimizer."):
            continue
        of, what = name.removeprefix("optimizer.").rsplit(".", 1)
        parameter = parameters[of]
        if isinstance(value, torch.Tensor):
            # A buffer must lie in memory as its parameter does: fused optimizers walk both side by side.
            like = parameter if value.shape == parameter.shape and what != "step" else value
            # The count of steps is the processor's, unless a fused optimizer counts on the device.
            device = "cpu" if what == "step" and parameter not in fused else parameter.device
            value = torch.empty_like(like, dtype=value.dtype, device=device).copy_(sharded_like(value, like))
        optimizer.state[parameter][what] = value


class Log:
    """`log.jsonl`: one JSON object a line, in step order, also after a crash and a resume."""

    def __init__(self, path: Path, start: int) -> None:
        """Open the log, dropping lines that a lost part of training wrote after its last save.

        Args:
            path: the file.
            start: the step at which training resumes; lines of later steps are dropped.
        """
        kept = [line for line in read_log(path, {"step": COUNT}) if line["step"] <= start]
        write(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._file: IO[str] = open(path, "a", encoding="utf-8")

    def add(self, figures: Mapping[str, Any]) -> None:
        """Append one line.

        Args:
            figures: plain values, `step` among them.
        """
        try:
            self._file.write(json.dumps(figures) + "\n")
            self._file.flush()
        except OSError as error:
            raise NearfarError(
                f"log.jsonl cannot be written ({error.strerror}); free some space and run the same command."
            ) from error

    def close(self) -> None:
        """Close the file."""
        try:
            self._file.close()
        except OSError:
            pass  # the line that failed has been reported already


def read_log(path: Path, shape: Any) -> list[dict[str, Any]]:
    """Read a log, leaving out what follows a line that a crash cut short.

    Args:
        path: the file; missing counts as empty.
        shape: what a line holds, as `core.shapes` has it.

    Returns:
        One dict a line.

    Raises:
        NearfarError: it cannot be read, or a line is JSON of another shape.
    """
    lines: list[dict[str, Any]] = []
    if path.exists():
        try:
            content = path.read_bytes()
        except OSError as error:
            raise NearfarError(
                f"{path} cannot be read ({error.strerror}); train again with --overwrite."
            ) from error
        for text in content.splitlines():
            try:
                found = loads(text)
            except ValueError:
                break
            check_shape(found, shape, f"{path}, line {len(lines) + 1}: ")
            lines.append(found)
    return lines

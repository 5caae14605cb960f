"""Data flows one way: a file imports its own floor and the floors below, never one above.

The floors are those of the table in docs/design.md.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

from nearfar.cli.commands import COMMANDS
from nearfar.data.modalities import MODALITIES
from nearfar.evaluation import PARTS
from nearfar.methods import METHODS
from nearfar.queries import QUERIES

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "nearfar"

DESIGN = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
FLOORS = {
    int(floor): re.findall(r"`(\w+)`", rooms)
    for floor, rooms in re.findall(r"^\| (\d) \|.*\| (.*) \|$", DESIGN, re.MULTILINE)
}
FLOOR = {name: floor for floor, names in FLOORS.items() for name in names}
LAZY = {"__init__": "imports by name, when a name is first used"}


def rooms() -> dict[Path, str]:
    """Every source file, with the room it belongs to: its own name, or its folder's."""
    return {
        path: path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for path in sorted(PACKAGE.rglob("*.py"))
        if "__pycache__" not in path.parts
    }


def imported(source: str, folders: tuple[str, ...] = ()) -> set[str]:
    """The rooms a source text imports, wherever in it and however it is written, for types alone too."""
    package = ["nearfar", *folders]
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from . import a` names the file a; `from .a import b` names a, and so does a's own folder.
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            # Whoever writes a file may record the version, which stands in __init__.
            if parts[0] == "nearfar" and len(parts) > 1 and parts[1] != "__version__":
                found.add(parts[1] if parts[1] in FLOOR else "__init__")
    return found


def test_every_file_has_a_floor() -> None:
    assert set(rooms().values()) == set(FLOOR), "docs/design.md and nearfar/ differ"
    assert list(FLOORS) == list(range(10)) and sum(map(len, FLOORS.values())) == len(FLOOR)


def test_no_file_imports_a_higher_floor() -> None:
    wrong = []
    for path, room in rooms().items():
        if room in LAZY:
            continue
        for other in imported(path.read_text(encoding="utf-8"), path.relative_to(PACKAGE).parts[:-1]):
            if FLOOR[other] > FLOOR[room]:
                wrong.append(
                    f"{path.relative_to(PACKAGE)} (floor {FLOOR[room]}) imports {other} ({FLOOR[other]})"
                )
    assert not wrong


def test_the_check_sees_every_way_to_import() -> None:
    source = "import nearfar.cli\nfrom . import demo\n"
    source += "from .evaluation import x\ndef f():\n    from nearfar.data.lists import y"
    assert imported(source) == {"cli", "demo", "evaluation", "data"}
    assert imported(
        "from ..core import rng\nfrom ..models import mlp\nfrom .base import Batch", ("methods",)
    ) == {
        "core",
        "models",
        "methods",
    }
    assert imported("from nearfar import pretrain, __version__\nimport torch") == {"__init__"}


def test_algorithms_on_vectors_and_stores_know_nothing_of_training() -> None:
    for path, room in rooms().items():
        if room in ("analysis", "stores"):
            found = imported(path.read_text(encoding="utf-8"), path.relative_to(PACKAGE).parts[:-1])
            allowed = {"core", "images", "data", "models", "losses", "features", "analysis", "stores"}
            assert found <= allowed, f"{path.relative_to(PACKAGE)} imports {found - allowed}"


def test_at_the_top_stand_only_rooms() -> None:
    names = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    flat = {name for name in names if not (PACKAGE / name).is_dir()}
    assert flat == {"__init__.py", "__main__.py", "py.typed"}
    assert len(names - flat) <= 26


def to_add(what: str) -> tuple[str, ...]:
    """The files that docs/design.md says are written and changed to add something."""
    row = re.search(rf"^\| {what} \|(.*)\|(.*)\|$", DESIGN, re.MULTILINE)
    assert row, f"docs/design.md does not say how to add {what}"
    return tuple(name for cell in row.groups() for name in re.findall(r"`([\w/<>]+\.py)`", cell))


def words() -> dict[str, set[str]]:
    """Each file with its texts and with the names it imports from elsewhere."""
    found: dict[str, set[str]] = {}
    for path in rooms():
        held = found[path.relative_to(PACKAGE).as_posix()] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                held.add(node.value)
            elif isinstance(node, ast.ImportFrom):
                held.update((node.module or "").split("."), [alias.name for alias in node.names])
    return found


USUAL = ("simclr", "clip", "siglip")  # taken where none is named, as the modality says


def test_a_method_is_its_file_and_one_line() -> None:
    own, table = to_add("a method")
    files = {name: own.replace("<name>", name) for name in METHODS}
    assert all((PACKAGE / file).exists() for file in files.values())
    lines = (PACKAGE / table).read_text(encoding="utf-8").splitlines()
    named = words()
    for name in METHODS:
        assert sum(f'"{name}"' in line for line in lines) == 1
        # A loss, a score of anomalies or a model of another library may be called like its method.
        alike = (
            "losses/",
            "analysis/anomal",
            f"queries/{name}_",
            "text/two_towers.py",
            "models/hf_networks.py",
        )
        found = {file for file, held in named.items() if name in held and not file.startswith(alike)}
        if name not in USUAL:
            assert found - set(files.values()) == {table}, name


def test_a_part_and_a_store_command_are_a_file_and_one_line_each() -> None:
    named = words()
    for what, files in {
        "a part of an evaluation": {name: f"evaluation/{entry.file}.py" for name, entry in PARTS.items()},
        "a store command": {name: f"queries/{name.replace('-', '_')}.py" for name in QUERIES},
    }.items():
        own, table = to_add(what)
        lines = (PACKAGE / table).read_text(encoding="utf-8").splitlines()
        for name, file in files.items():
            assert (PACKAGE / file).exists() and Path(own).parent == Path(file).parent
            assert sum(f'"{name}": ' in line for line in lines) == 1, f"{table} names {name} more than once"
            faces = {other for other, held in named.items() if name in held and other.startswith("cli/")}
            if name not in COMMANDS or name in QUERIES:  # "finetune" is a command of its own too
                assert not faces, f"{faces} name {name} by hand"


def test_a_modality_is_its_file_and_one_line() -> None:
    own, table = to_add("a modality")
    lines = (PACKAGE / table).read_text(encoding="utf-8").splitlines()
    for module in MODALITIES.values():
        file = Path(*module.split(".")[1:]).with_suffix(".py")
        assert (PACKAGE / file).exists() and Path(own).parent == file.parent
        assert sum(f'"{module}"' in line for line in lines) == 1


def test_words_need_no_torch() -> None:
    for name in ("core/errors", "core/config", "core/progress", "training/settings", "images/view_settings"):
        tree = ast.parse((PACKAGE / f"{name}.py").read_text())
        tops = {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        tops |= {n.module.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
        assert not tops & {"torch", "numpy", "PIL", "numba"}


# Classes that share a name on purpose: every method's file has its own `Config`, which its class names, and
# every task's too, with the `Predicting` of its predictions.
SHARED = {"Config", "Predicting"}


def test_every_public_class_has_a_name_of_its_own() -> None:
    places: dict[str, list[str]] = {}
    for path in rooms():
        if path.name.startswith("modeling_"):  # copied into an export, and not imported here
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(str(path.relative_to(PACKAGE)))
    twice = {name: files for name, files in places.items() if len(files) > 1 and name not in SHARED}
    assert not twice

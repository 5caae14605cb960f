"""What the command line prints, and where: errors, names, JSON, a closed pipe, Ctrl-C."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import forkserver
import pytest

import nearfar
from nearfar import methods
from nearfar.cli.commands import FUNCTIONS, PRIVATE
from nearfar.cli.main import main
from nearfar.core.atomic import whole_folder
from nearfar.core.text import isolated, printable


def test_methods_are_listed_without_torch_and_at_once() -> None:
    code = (
        "import sys\nfrom nearfar.cli.main import main\nmain(['methods'])\n"
        "assert not {'torch', 'numpy'} & {*sys.modules} and len(sys.modules) < 250"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for method in methods.METHODS:
        assert re.search(rf"^{method} +\S", done.stdout, re.MULTILINE), method
    assert max(map(len, done.stdout.splitlines())) <= 110
    assert "Chen et al. 2020; needs images." in done.stdout and "Chen and He 2021;" in done.stdout


@pytest.mark.slow
def test_nothing_is_printed_after_the_end_of_a_command() -> None:
    pytest.importorskip("triton")  # whose library tells of each object that is still there as Python ends
    code = "import torchvision, nearfar.__main__ as m\nm.sys.argv[1:] = ['methods']\nm.start()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "simclr" in done.stdout and done.stderr == ""


def test_methods_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["methods"]
    assert [entry["name"] for entry in listed] == list(methods.METHODS)
    for entry in listed:
        assert set(entry) == {"name", "line", "paper", "citation", "needs", "choose"}
        assert re.search(r" (et al\. |and \S+ )?(19|20)\d\d$", entry["paper"]), entry["paper"]
        assert entry["choose"].startswith("when ") and entry["choose"].endswith(".")
        needs = methods.method(entry["name"]).needs
        assert needs & {"labels"} == ({"labels"} if entry["needs"] == "images with labels" else set())


def test_a_missing_folder_is_a_sentence_on_standard_error(tmp_path: Path) -> None:
    done = forkserver.run(forkserver.NEARFAR, "check", tmp_path / "nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("nearfar: ") and "nowhere" in done.stderr


def test_a_current_folder_that_was_deleted_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    try:
        assert main(["check", "photos"]) == 2
    finally:
        os.chdir(tmp_path)
    assert "the current folder was deleted" in capsys.readouterr().err


def test_names_that_a_terminal_cannot_show(tmp_path: Path) -> None:
    pytest.importorskip("lancedb", reason="no LanceDB here: pip install 'nearfar[store]'")
    import numpy as np
    import pyarrow as pa

    from nearfar.stores import StoreInfo, open_store
    from nearfar.stores.arrow_rows import fixed

    store = open_store(tmp_path / "odd.nf", StoreInfo(2))
    turn = np.stack([np.cos(np.arange(3)), np.sin(np.arange(3))], axis=1).astype(np.float32)
    names = ["caf\u00e9.jpg", "\\xff.jpg", "plain.jpg"]
    store.upsert(pa.table({"id": names, "vector": fixed(turn)}))

    words, env = ["search", store.address, "--id"], os.environ | {"PYTHONIOENCODING": "ascii"}
    shown = forkserver.run(forkserver.NEARFAR, *words, "plain.jpg", env=env)
    assert (shown.returncode, shown.stderr) == (0, "") and "caf\\xe9.jpg" in shown.stdout
    refused = forkserver.run(forkserver.NEARFAR, *words, b"\xff.jpg")
    assert refused.returncode == 2
    assert refused.stderr == "nearfar: '\\udcff.jpg' is not UTF-8 text; type the name as nearfar lists it.\n"


def test_words_from_right_to_left_turn_nothing_beside_them() -> None:
    line = "1.png  0.75  \u05d7\u05ea\u05d5\u05dc  12 px"
    shown = isolated(line)
    assert shown == "1.png  0.75  \u2068\u05d7\u05ea\u05d5\u05dc\u2069  12 px"
    assert isolated("\u00e9.png 3") == "\u00e9.png 3" and isolated("a\n b") == "a\n b"
    assert isolated(printable("a\u202ebc\u200f.png")) == "a?bc?.png"


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (["predict", "r", "d", "--out="], "--out"),
        (["search", "s.nf", "--id", "a", "--run", ""], "--run"),
        (["store", "s.nf", "--import", ""], "--import"),
    ],
)
def test_a_value_that_is_empty_is_refused(
    words: list[str], flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert f"{flag} is empty; give it a value" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (["search", "a.nf", "--image", "cat.png", "--out", "./cat.png"], "--out"),
        (["search", "a.nf", "--like", "b", "cat.png", "--out", "link.png"], "--out"),
        (["store", "a.nf", "--columns", "cat.csv", "--export", "cat.csv"], "--export"),
        (["embed", "runs/a", "cat.csv", "--out", "cat.csv"], "--out"),
        (["predict", "runs/a", "photos", "--sheet", "photos"], "--sheet"),
        (["pretrain", "photos", "--out", "photos/"], "--out"),
        (["anomalies", "photos", "--heat-maps", "photos"], "--heat-maps"),
    ],
)
def test_what_is_read_is_not_written_over(
    words: list[str],
    flag: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("cat.png", "cat.csv"):
        Path(name).write_text("path,site\n")
    Path("link.png").symlink_to("cat.png")
    Path("photos").mkdir()
    assert main(words) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"nearfar: {flag} ") and "takes the place of what this command reads" in told
    assert Path("cat.csv").read_text() == "path,site\n" and not os.listdir("photos")


def test_what_is_left_of_a_launch_silences_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.setenv(name, "2")
        assert main(["methods"]) == 0 and "simclr" in capsys.readouterr().out
    monkeypatch.setenv("MASTER_PORT", "2")
    assert main(["methods"]) == 0 and not capsys.readouterr().out  # the first process says it


def test_what_nobody_foresaw_is_a_sentence_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for error, status, said in (
        (RuntimeError("odd\x1b[31m\nmore"), 1, "nearfar's own: RuntimeError: odd?[31m (main.py, line "),
        (OSError(errno.EIO, "Input/output error"), 1, "Input/output error"),
        (OSError(errno.EFBIG, "File too large"), 2, "a disk is full"),
        (OSError(errno.EACCES, "Permission denied", "a\x1b"), 2, "cannot use a?: Permission denied."),
        (MemoryError(), 2, "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you"), 2, "not enough memory for these"),
    ):  # fmt: skip

        def fails(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        monkeypatch.setattr(nearfar, "check", fails)
        assert main(["check", "photos"]) == status
        told = capsys.readouterr().err
        assert said in told and told.count("\n") == 1 and "Traceback" not in told
    monkeypatch.setenv("NEARFAR_TRACEBACK", "1")
    monkeypatch.setattr(nearfar, "check", lambda *_, **__: 1 / 0)
    assert main(["check", "photos"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_closed_pipe_is_no_traceback() -> None:
    command = f"{sys.executable} -m nearfar pretrain --help | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("example: ") and done.stderr == ""


def test_version() -> None:
    command = [sys.executable, "-m", "nearfar", "--version"]
    assert (
        subprocess.run(command, capture_output=True, text=True, check=True).stdout
        == f"nearfar {nearfar.__version__}\n"
    )


@pytest.mark.slow
def test_ctrl_c_saves_and_says_how_to_go_on(photos: Path, tmp_path: Path) -> None:
    words = [
        "pretrain",
        str(photos),
        "--out",
        str(tmp_path / "run"),
        "--batch-size",
        "16",
        "--steps",
        "100000",
    ]
    words += ["--encoder", "resnet10_w16", "--seed", "3"]
    with forkserver.start(forkserver.NEARFAR, *words) as process:
        log = tmp_path / "run" / "log.jsonl"
        for _ in range(1200):
            if process.poll() is not None or (log.exists() and log.stat().st_size):
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == "" and "Traceback" not in err
    assert "run the same command again to resume" in err
    assert (tmp_path / "run" / "last.safetensors").exists()


@pytest.mark.slow
def test_json_is_one_object_on_standard_output(tmp_path: Path) -> None:
    from nearfar.demo import gallery

    gallery.write(tmp_path, photos=2, train=2, test=2)
    done = forkserver.run(forkserver.NEARFAR, "check", tmp_path / "photos", "--json", "--max-bad", "1")
    assert done.returncode == 0, done.stderr
    assert isinstance(json.loads(done.stdout), dict)


LONG = {  # a command's words, and how its last sentence ends
    "check a": "begins anew.",
    "views a": "begins anew.",
    "pretrain a": "to resume.",
    "compare a --methods simclr moco --steps 1": "to resume.",
    "sweep a --steps 1 --trials 10": "to resume.",
    "evaluate a --train a --test a": "begins anew.",
    "finetune a --train a --out b": "to resume.",
    "predict a a": "to resume.",
    "report a": "begins anew.",
    "explain a a": "begins anew.",
    "adopt a --out b": "begins anew.",
    "combine a b --out c": "begins anew.",
    "embed a a --out b": "to resume.",
    "duplicates a": "begins anew.",
    "anomalies a": "begins anew.",
    "clusters a": "begins anew.",
    "map a": "begins anew.",
    "label-errors a": "begins anew.",
    "export a --to onnx": "begins anew.",
    "demo": "to resume.",
}


@pytest.mark.parametrize("words", LONG)
def test_ctrl_c_ends_every_long_command_in_one_sentence(
    words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = words.split()[0]
    name = FUNCTIONS.get(command, command)

    def work(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)  # which the signal cuts short

    place = "nearfar.demo.demo.demo" if name in PRIVATE else f"nearfar.{name}"
    monkeypatch.setattr(place, work, raising=False)
    handler = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # it may be ignored, as in the background
    try:
        assert main(words.split()) == 130
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL  # a second one ends the process at once
    finally:
        signal.signal(signal.SIGINT, handler)
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("stopped; ") and err.endswith(f"{LONG[words]}\n")
    assert err.count("\n") == 1 and "run the same command again" in err


def test_ctrl_c_before_anything_is_imported_is_a_sentence_too() -> None:
    code = (
        "import sys\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'nearfar.cli.main': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "from nearfar.__main__ import start\n"
        "sys.exit(start())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 130 and done.stderr.startswith("stopped before anything began")


def test_a_folder_that_is_not_finished_goes_again(tmp_path: Path) -> None:
    place = tmp_path / "new"
    for there in ([], [place]):  # a folder that was there before stays, and is empty
        for folder in there:
            folder.mkdir()
        with pytest.raises(KeyboardInterrupt), whole_folder(place) as made:
            (made / "half").write_text("")
            assert not (place / "half").exists()
            raise KeyboardInterrupt
        assert [*tmp_path.iterdir()] == there and not [*place.glob("*")]
    with whole_folder(place) as made:
        (made / "whole").write_text("x")
    assert (place / "whole").read_text() == "x" and len([*tmp_path.iterdir(), *place.iterdir()]) == 2


def test_what_a_kill_left_of_a_folder_goes_the_next_time_and_what_is_being_written_stays(
    tmp_path: Path,
) -> None:
    place = tmp_path / "a[b]"
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from nearfar.core.atomic import whole_folder\n"
        "with whole_folder(Path(sys.argv[1])) as made:\n"
        "    (made / 'half').write_text('')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(place)], check=False)
    (left,) = tmp_path.iterdir()
    (tmp_path / ".a[b]-0123abcd").mkdir()  # of somebody else: no lock is in it
    with whole_folder(place) as made:
        (made / "whole").write_text("x")
        assert not left.exists()
        with whole_folder(place) as other:
            assert made.exists() and other != made
            (other / "second").write_text("x")
        shutil.rmtree(place)
    assert sorted(item.name for item in tmp_path.rglob("*")) == [".a[b]-0123abcd", "a[b]", "whole"]

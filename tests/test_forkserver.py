"""Copies of a process that has loaded torch are like processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import forkserver
import pytest


def test_words_streams_environment_and_status_are_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    code = (
        "import atexit, os, sys; atexit.register(print, 'bye')\n"
        "print(sys.argv[1:], os.getcwd(), os.environ['COLOUR']); print('é', file=sys.stderr); sys.exit(3)"
    )
    done = forkserver.run(code, 1, b"\xff", env=os.environ | {"COLOUR": "red"})
    assert done.stdout == f"['1', '\\udcff'] {tmp_path} red\nbye\n"
    assert (done.returncode, done.stderr) == (3, "é\n") and "COLOUR" not in os.environ
    assert forkserver.run("").returncode == 0
    for code, says in (("1 / 0", "ZeroDivisionError"), ("raise SystemExit('why')", "why")):
        done = forkserver.run(code)
        assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith(says)
    with pytest.raises(AssertionError, match="number of threads"):
        forkserver.run("", env={})


def test_nothing_has_run_and_nothing_is_loaded_that_a_copy_could_not_use():
    code = (
        "import sys, torch; from pathlib import Path\n"
        "threads = [path.name for path in Path('/proc/self/task').glob('*')]\n"
        "never = {'lancedb', 'pyarrow', 'triton', 'torch._dynamo', 'nearfar.methods.simclr'}\n"
        "print(len(threads) <= 1, never & {*sys.modules})\n"
        "print(torch.get_num_threads(), torch.cuda.is_initialized())"
    )
    assert forkserver.run(code, check=True).stdout == "True set()\n1 False\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signals_end_it(number: int):
    code = "import time\nprint('here', flush=True)\ntime.sleep(100)"
    with forkserver.start(code) as process, forkserver.start(code) as other:
        assert process.stdout.readline() == "here\n" and process.poll() is None
        process.send_signal(number)
        assert process.wait(60) == -number and other.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(0.01)


def test_the_server_ends_with_its_caller_and_ends_its_copies(tmp_path: Path):
    code = (
        "import forkserver, os; print(forkserver.start('import time; time.sleep(100)').pid)\n"
        "os.kill(os.getpid(), 9)"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": "1"}
    said = subprocess.run([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True)
    assert said.returncode == -signal.SIGKILL
    until = time.monotonic() + 60
    while time.monotonic() < until and alive(int(said.stdout)):
        time.sleep(0.05)
    assert not alive(int(said.stdout))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # One that has ended counts until somebody has asked how.
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"

"""`nearfar explore`: where it serves, and what it refuses."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest

pytest.importorskip("fastapi", reason="no FastAPI here: pip install 'nearfar[explore]'")
pytest.importorskip("lancedb", reason="no LanceDB here: pip install 'nearfar[store]'")

import explored
import forkserver
from page_client import HOME, TOKEN, asked, client, opened, stranger, there  # noqa: F401

import nearfar.app
from nearfar.app import guard
from nearfar.app.explore import explore, listening
from nearfar.core.errors import NearfarError
from nearfar.stores import open_store


def test_ports_and_addresses() -> None:
    with listening("127.0.0.1", None) as first:
        taken = first.getsockname()[1]
        with pytest.raises(NearfarError, match="cannot be served at"):
            listening("127.0.0.1", taken)
        with listening("127.0.0.1", None) as second:
            assert second.getsockname()[1] != taken
    with pytest.raises(NearfarError, match="choose another with --host"):
        listening("203.0.113.7", 0)
    assert guard.names_of("127.0.0.1") == {"localhost", "127.0.0.1"}
    assert socket.gethostname() in guard.names_of("0.0.0.0")


def test_the_command_serves_until_it_is_interrupted(there: explored.Explored) -> None:
    words = ["explore", there.store.address, "--port", "0"]
    with forkserver.start(forkserver.NEARFAR, *words) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = line.split()[-1]
        assert process.stdout.readline() == "Ctrl-C ends it.\n"
        assert line.startswith("150 images of ") and address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(address, timeout=60) as answer:
            assert answer.status == 200 and b"nearfar" in answer.read()
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(address.split("?")[0], timeout=60)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err == ""


def test_an_empty_or_missing_store_is_refused(tmp_path: Path, there: explored.Explored) -> None:
    with pytest.raises(NearfarError, match="there is no vector store"):
        explore(tmp_path / "none.nf")
    open_store(tmp_path / "empty.nf", explored.info(there.run))
    with pytest.raises(NearfarError, match="holds nothing"):
        explore(tmp_path / "empty.nf")


def test_no_list_of_processes_shows_the_token(there: explored.Explored, tmp_path: Path) -> None:
    script = tmp_path / "browser"
    script.write_text(
        f"#!/bin/sh\necho \"$@\" > '{tmp_path}/part' && mv '{tmp_path}/part' '{tmp_path}/words'\n"
    )
    script.chmod(0o755)
    env = os.environ | {"BROWSER": f"{script} %s"}
    words = ["explore", there.store.address, "--browser"]
    with forkserver.start(forkserver.NEARFAR, *words, env=env) as process:
        assert process.stdout is not None
        token = process.stdout.readline().rstrip().rpartition("token=")[2]
        while not (tmp_path / "words").exists():
            assert process.poll() is None
            time.sleep(0.02)
        told = (tmp_path / "words").read_text().strip()
        assert len(token) > 20 and token not in told
        page = Path(url2pathname(urlsplit(told).path))
        assert token in page.read_text()
        assert page.stat().st_mode & 0o077 == 0 and page.parent.stat().st_mode & 0o077 == 0
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
    assert not page.exists()


def test_each_key_of_the_page_does_one_thing() -> None:
    script = Path(nearfar.app.__file__).parent / "static" / "main.js"
    keys = re.findall(r'^  \["([^"]+)", ', script.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(keys) > 30 and len(keys) == len({*keys})

"""Progress: on standard error, and silent unless asked."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nearfar.core import progress


@pytest.fixture(autouse=True)
def quiet_afterwards() -> Iterator[None]:
    before = progress.shown()
    yield
    progress.show(before)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3600, "1 h 00 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_times_are_written_as_people_do(seconds: float, words: str) -> None:
    assert progress.duration(seconds) == words


def test_a_library_call_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    progress.show(False)
    progress.say("news")
    with progress.Bar("Reading", 2) as bar:
        bar.last -= 60
        bar.advance(2)
    assert capsys.readouterr() == ("", "")
    assert bar.done == 2


def test_a_log_gets_whole_lines_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    progress.show(True)
    progress.say("news")
    with progress.Bar("Reading", 1_000) as bar:
        bar.advance(1)
        bar.started -= 100
        bar.last -= 60
        bar.advance(499)
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0] == "news"
    assert lines[1:] == ["Reading 500 of 1,000 images, 5/s, 1 min 40 s left"]

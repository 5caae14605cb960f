"""What Ctrl-C leaves behind, in one sentence a command."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import suppress

from ..core import progress

STATUS = 130
RESUMES = ("pretrain", "compare", "sweep", "finetune", "learning-curve", "predict", "embed", "demo")
RESUMED = "stopped; what is done is kept: run the same command again to resume."
ANEW = "stopped; no file is half written: run the same command again, which begins anew."
ENDED_SO = ("explore",)  # a page that is served has no other end


def end(words: Sequence[str], error: KeyboardInterrupt) -> int:
    """Say what was kept and how to go on; a second Ctrl-C ends the process at once.

    Args:
        words: the command line after `nearfar`.
        error: with the sentence, where the command knows better.

    Returns:
        The exit status.
    """
    with suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    first = os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"
    command = words[0] if words else ""
    if first and command not in ENDED_SO:
        clear = "\r\x1b[K" if progress.on_terminal() else ""
        said = str(error) or (RESUMED if command in RESUMES else ANEW)
        progress.write(f"{clear}{said}\n")
    return STATUS

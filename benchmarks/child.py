"""The fresh process that `measure.fresh` starts: runs one subject's `child` and prints what it returns."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys


def main() -> None:
    """Read the subject and its arguments, and print the result as the last line."""
    subject, arguments = sys.argv[1], json.loads(sys.argv[2])
    with contextlib.redirect_stdout(sys.stderr):  # whatever a peer prints must not mix with the result
        if "OMP_NUM_THREADS" in os.environ:
            import torch

            torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        result = importlib.import_module(f"benchmarks.{subject}").child(**arguments)
    print(json.dumps(result))


if __name__ == "__main__":
    main()

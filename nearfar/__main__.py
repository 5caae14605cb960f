"""Starts the command line, also as `python -m nearfar`."""

import gc
import sys

TIDY = {"triton", "onnx"}  # nanobind prints what of theirs is left at the end; torchvision imports the first


def start() -> int:
    """Run the command line; Ctrl-C before it has been imported ends in a sentence too."""
    try:
        from .core.imports import large_imports

        with large_imports():
            from .cli.main import main
    except KeyboardInterrupt:
        sys.stderr.write("stopped before anything began: run the same command again.\n")
        return 130
    try:
        return main()
    finally:
        if not TIDY & sys.modules.keys():
            gc.freeze()  # or Python would look for cycles among all that ends with it, which takes a second


if __name__ == "__main__":
    sys.exit(start())

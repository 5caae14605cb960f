"""Lets `python -m nearfar` do what `nearfar` does."""

import sys

from .cli import main

sys.exit(main())

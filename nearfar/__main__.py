"""Lets `python -m nearfar` do what `nearfar` does."""

import sys

from .cli.main import main

sys.exit(main())

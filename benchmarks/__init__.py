"""Every figure of the README and the docs: what is measured, how, and against what; see benchmarks/run."""

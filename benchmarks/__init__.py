"""Every figure of the README and the docs: what is measured, how, and beside whom; see benchmarks/run."""

"""Benchmarks. Each prints its figures, writes them as JSON (`--json FILE`) and into docs/benchmarks.md (`--report`)."""

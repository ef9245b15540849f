"""All benchmarks, one after the other: `python -m benchmarks --out DIR [--report]`; each writes its JSON there.

The simulations of a thousand nodes take hours together and are run by hand: see `benchmarks/simulations.py`.
"""

import argparse
import subprocess
import sys
from pathlib import Path

BENCHMARKS = (
    "idle", "rpc", "lookups", "send", "mutable", "groups", "puzzle", "store", "store_keys", "store_group",
    "store_snapshot", "store_compiled", "workflows", "verification", "dag", "slices",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description="Run all benchmarks.")
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="DIR")
    parser.add_argument("--report", action="store_true", help="write the tables into docs/benchmarks.md")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in BENCHMARKS:
        print(f"--- {name}", flush=True)
        words = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(options.out / f"{name}.json")]
        if subprocess.run([*words, *(["--report"] if options.report else [])]).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

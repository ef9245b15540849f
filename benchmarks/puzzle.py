"""What the static puzzle costs: CPU time to make a key whose id has c leading zero bits in its hash.

    python -m benchmarks.puzzle [--keys 20000] [--json FILE] [--report]

One key is measured; a puzzle of c bits takes 2^c of them on average, and half of all are found within 0.69 x 2^c.
"""

import argparse
import os
import time
from pathlib import Path
from typing import Any

from benchmarks import report
from titan_overlay.identity.ids import solves_puzzle
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.poolrecord import PUZZLE_BITS_DEFAULT

BITS = (0, 4, PUZZLE_BITS_DEFAULT, 12, 16, 20, 24)


def measure(keys: int) -> dict[str, Any]:
    """CPU seconds by bits."""
    began = time.process_time()
    for _ in range(keys):
        solves_puzzle(SigningKey(os.urandom(32)).id, 32)
    each = (time.process_time() - began) / keys
    return {"keys": keys, "key_microseconds": each * 1e6, **{f"seconds_{bits}": each * 2**bits for bits in BITS}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=20_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    rows: list[report.Row] = [("CPU for one key", "key_microseconds", "{:.0f} us")]
    rows += [(f"one core, mean, for {bits} bits", f"seconds_{bits}", "{:.3g} s") for bits in BITS]
    report.publish("puzzle", rows, measure(options.keys), options)


if __name__ == "__main__":
    main()

"""`python -m tests.parity [--only TEXT] [--json FILE]`: the table of parity cases."""

import argparse
import json
import signal
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from tests.parity.harness import run_all
from tests.parity.reference import ABSENT, find_reference


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.parity", description=__doc__)
    parser.add_argument("--only", default="", help="run the cases whose name holds this")
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside"))  # and its server with it
    reference = find_reference()
    if reference is None:
        sys.exit(ABSENT)
    rows = []
    for row in run_all(reference, asked.only):
        rows.append(row)
        print(
            f"{row.verdict:6} {row.case:38} {row.detail[:200]:60} [{row.criterion}]",
            flush=True,
        )
    count = Counter(row.verdict for row in rows)
    print(", ".join(f"{n} {verdict}" for verdict, n in sorted(count.items())))
    if asked.json:
        asked.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    return 1 if count["FAIL"] else 0


if __name__ == "__main__":
    sys.exit(main())

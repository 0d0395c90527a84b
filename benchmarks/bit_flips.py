"""Bits flipped one by one in every file of a scored run: verify finds a fault, or nothing has changed.

    python benchmarks/bit_flips.py               20,000 bits of each kind of file, drawn at random
    python benchmarks/bit_flips.py --flips 0     all bits; a night

The run is a small dry one. No flip may be taken for the run and score otherwise.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from figures import ROOT, report

sys.path.insert(0, str(ROOT / "tests"))

from support.bit_flips import KINDS, scored_run, try_flips

from lveval.common import logs


def main() -> int:
    """Try each kind of file; 1 where an altered one was accepted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flips", type=int, default=20_000, help="of each kind; 0: all (20000)")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (0)")
    options = parser.parse_args()
    met = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LVEVAL_CACHE"] = f"{folder}/cache"
        run = scored_run(Path(folder))
        logs.configure(quiet=True)
        for kind in KINDS:
            told = try_flips(run, kind, options.flips or None, options.seed)
            name = f"{kind}: {told['tried']:,} bits flipped, {told['harmless']:,} of no effect"
            met.append(
                report(name, f"{told['altered']} altered accepted", "0", not told["altered"])
            )
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())

"""What the benchmarks share: the checkout on the path, and one line a figure.

from figures import ROOT, report
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The command that builds data; run it in ROOT.
CONSTRUCT = [sys.executable, "-m", "lveval", "construct"]
sys.path.insert(0, str(ROOT))  # the checkout is not installed


def report(name: str, figure: str, goal: str = "", met: bool = True) -> bool:
    """Print a figure against its goal (blank where it only informs); returns whether it was met."""
    verdict = f"   goal {goal:<18} {'ok' if met else 'MISSED'}" if goal else ""
    print(f"{name:<74} {figure:>30}{verdict}", flush=True)
    return met

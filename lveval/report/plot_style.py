"""What the plots of a report share: how they are handed on, and their colours and lines.

INKS["own"]    # of this run
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Draw = Callable[["Figure"], None]

# By the class in page.css, as it is in light.
INKS = {"own": "#0b5cad", "s0": "#0b6b4f", "s2": "#6a3fa0", "s3": "#a3286a", "s4": "#a34a12"}

DASHES = ("-", "--", ":", "-.")

GRID = "#d3d8de"

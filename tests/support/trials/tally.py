"""What a trial counts."""

import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

SLOW_SECONDS = 1.0  # an input that keeps the harness longer counts as a hang

WIDTH = 12  # of a column


@dataclass
class Tally:
    """The figures of one trial: how often it tried, and what must stay 0."""

    points: int = 0  # kills, failed calls, cuts, flips or inputs
    lost: int = 0  # rows that were acknowledged and are gone
    duplicated: int = 0  # rows that are there twice
    altered: int = 0  # damaged or other content that was taken for the run
    uncaught: int = 0  # exceptions that are no sentence for the user
    hangs: int = 0  # inputs that took longer than SLOW_SECONDS

    @property
    def good(self) -> bool:
        """Whether something was tried and nothing went wrong."""
        return self.points > 0 and all(
            getattr(self, field.name) == 0 for field in fields(self) if field.name != "points"
        )

    @contextmanager
    def trying(self) -> Iterator[None]:
        """Count what is done inside as one point; an exception as uncaught, a long wait as a hang."""
        begin = time.process_time()
        try:
            yield
        except Exception:  # noqa: BLE001 - it is what this is for
            traceback.print_exc()
            self.uncaught += 1
        self.points += 1
        self.hangs += time.process_time() - begin > SLOW_SECONDS

    def __iadd__(self, other: "Tally") -> "Tally":
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))
        return self

    def __str__(self) -> str:
        return "".join(f"{getattr(self, each.name):>{WIDTH},}" for each in fields(self))


def header() -> str:
    """The names of the figures, above what a Tally prints."""
    return "".join(f"{each.name:>{WIDTH}}" for each in fields(Tally))

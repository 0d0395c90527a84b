"""SIGKILL at random moments of a run's life, again and again; several lives at once in one folder."""

import random
import shutil
from pathlib import Path

from support.trials.damage import RUN
from support.trials.lives import Life, Lives, recorded
from support.trials.tally import Tally


def random_kills(folder: Path, kills: int, seed: int) -> Tally:
    """Kill lives while they open, answer, derive, score and write; resume each killed run.

    What is acknowledged must be stored, what is stored was attempted, and the files of the run that
    lives to its end are those of a calm one.
    """
    lives, generator, tally = Lives(folder), random.Random(seed), Tally()
    output = folder / "killed"
    while tally.points < kills:
        for _ in range(generator.randint(1, 12)):
            had = {row for row, _ in recorded(output / RUN)}
            life = lives.live(output, kill_after=lives.seconds * generator.uniform(0, 1.1))
            tally += lives.look(output / RUN, life, had)
            tally.points += life.status == -9
            tally.uncaught += life.status not in (0, -9)
        tally += lives.finish(output)
        shutil.rmtree(output)
    return tally


def rivals(folder: Path, launches: int, seed: int) -> Tally:
    """Launch three at once in one folder, of which one is killed: one writes, the others are refused."""
    lives, generator, tally = Lives(folder), random.Random(seed), Tally()
    output = folder / "rivals"
    while tally.points < launches:
        living = [lives.begin(output) for _ in range(3)]
        killed = lives.end(living[0], lives.seconds * generator.uniform(0, 2))
        others = [lives.end(one) for one in living[1:]]
        together = Life(
            attempted=set().union(*(life.attempted for life in (killed, *others))),
            acknowledged=set().union(*(life.acknowledged for life in (killed, *others))),
        )
        tally += lives.look(output / RUN, together)
        tally.points += 3
        # 3: it came to score the run while another was still answering.
        tally.uncaught += sum(life.status not in (0, 2, 3) for life in others)
        tally += lives.finish(output)
        shutil.rmtree(output)
    return tally

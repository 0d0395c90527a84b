"""SIGKILL at random moments of a run's life, again and again until it is finished."""

import random
import shutil
from pathlib import Path

from support.trials.damage import RUN
from support.trials.lives import Lives, recorded
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

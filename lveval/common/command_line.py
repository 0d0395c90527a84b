"""What the commands of the house share: one parser, and how the user calls the other commands.

parser = Command(usage="%(prog)s [--input-dir RUN] [options]", description="Score a run.")
program("evaluate")  # "python evaluation.py", or "lveval evaluate" in an installed copy
"""

import argparse
import shutil
import sys
import textwrap
from pathlib import Path
from typing import Any, NoReturn

from lveval.common.errors import WrongOption
from lveval.common.table import WIDTH
from lveval.common.text import one_line, unbroken

SCRIPTS = {"predict": "python prediction.py", "evaluate": "python evaluation.py"}


class Help(argparse.HelpFormatter):
    """Help as wide as the terminal, up to WIDTH; lines that begin with a space stay as they are."""

    def __init__(self, prog: str) -> None:
        width = min(WIDTH, shutil.get_terminal_size().columns)
        super().__init__(prog, max_help_position=30, width=width - 1)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = (
            line if line.startswith(" ") else textwrap.fill(line, width)
            for line in text.splitlines()
        )
        return textwrap.indent("\n".join(lines), indent)


class Command(argparse.ArgumentParser):
    """A parser that tells what is wrong in one sentence, and takes no prefix for an option.

    What a prefix means would change with the next option.
    """

    def __init__(
        self,
        *,
        formatter_class: type[Help] = Help,
        **words: Any,  # noqa: ANN401 - as argparse takes them
    ) -> None:
        super().__init__(formatter_class=formatter_class, allow_abbrev=False, **words)

    def add_loudness(self) -> None:
        """Add -v and -q."""
        self.add_argument("-v", "--verbose", action="store_true", help="say more on standard error")
        self.add_argument("-q", "--quiet", action="store_true", help="say only what is wrong")

    def error(self, message: str) -> NoReturn:
        """Raise WrongOption."""
        raise WrongOption(self.prog, f"{one_line(message)}; --help shows the options")


def program(command: str) -> str:
    """Return how the user calls a command of `lveval`, by how this one was called."""
    called, space, _ = sys.argv[0].rpartition(" ")  # as cli.py leaves it
    if space:
        return f"{called} {command}"
    return SCRIPTS.get(command, f"python -m lveval {command}")


def next_step(what: str, folder: Path, then: str) -> str:
    """Say where a command has written, and what to do next: how a command ends."""
    return unbroken(f"{what}: {folder}; next: {then}")

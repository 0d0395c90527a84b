"""The command `lveval`, installed or in a checkout: python -m lveval report --input-dir
outputs/chatglm3.
"""

import lveval.common.startup  # noqa: F401 - first: an interrupt among the imports is a line

# isort: split
from lveval.cli import main
from lveval.common.errors import run_cli


def entry_point() -> None:
    """What the installed command calls: `main`, with errors as one sentence and the exit code."""
    run_cli(main)


if __name__ == "__main__":
    entry_point()

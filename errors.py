"""What goes wrong for a user: one error class, its exit codes, and the one place that prints it.

from errors import ExitCode, HarnessError
raise HarnessError("data/lic_mixup_16k.jsonl:41: no \"answers\" (found: input, context, length)")
"""

import os
import signal
import sys
import threading
import unicodedata
from collections.abc import Callable
from enum import IntEnum


class ExitCode(IntEnum):
    """What a script's exit status means; 1 is left to Python for a bug of ours."""

    COMPLETE = 0
    USAGE = 2
    INCOMPLETE = 3
    IDENTITY = 4
    SERVICE = 5
    STORAGE = 6
    INTERRUPTED = 130


class HarnessError(Exception):
    """A fault that the user can act on, told in one sentence: what was found, what was expected, what to do."""

    def __init__(self, message: str, code: ExitCode = ExitCode.USAGE) -> None:
        super().__init__(message)
        self.message = message
        self.code = code

    def __reduce__(self) -> tuple[type["HarnessError"], tuple[str, ExitCode]]:
        """Keep the code when the error crosses from a worker process."""
        return type(self), (self.message, self.code)


def printable(text: str) -> str:
    """`text` without characters that could steer a terminal: controls and bidi overrides become `\\uXXXX`."""
    return "".join(
        character
        if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs")
        else f"\\u{ord(character):04x}"
        for character in text
    )


def one_line(text: str) -> str:
    """`text` as `printable` has it, on one line."""
    return " ".join(printable(text).split())


def choices(found: str, kind: str, known: list[str]) -> HarnessError:
    """The error for a name that is none of `known`, listing them all."""
    return HarnessError(f'unknown {kind} "{found}"; expected one of: {", ".join(known)}')


def run(main: Callable[[], ExitCode | int]) -> None:
    """Run a script's `main` and leave the process with its exit code.

    A HarnessError is one sentence on standard error, never a traceback; any other exception is a bug of ours and keeps
    its traceback (exit 1). Standard output that is closed early (`| head`) ends quietly.
    """
    try:
        code = int(main())
        sys.stdout.flush()
    except HarnessError as error:
        print(f"error: {printable(error.message)}", file=sys.stderr)
        code = int(error.code)
    except ModuleNotFoundError as error:
        print(
            f"error: the package {error.name} is not installed; run: pip install -r requirements.txt", file=sys.stderr
        )
        code = int(ExitCode.USAGE)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = int(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        # The reader left; point stdout at nothing so that the interpreter's own flush at exit stays quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 128 + int(signal.SIGPIPE)
    if code and any(thread is not threading.main_thread() and not thread.daemon for thread in threading.enumerate()):
        # A thread still answers a row that nobody will record, perhaps for minutes; Python would wait for it.
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)

"""What goes wrong for a user: one error class, its exit codes, and the one place that prints it.

from lveval.common.errors import DataError
raise DataError('data/lic_mixup_16k.jsonl:41: no "answers" (found: input, context, length)')
"""

import os
import signal
import sys
import threading
from collections.abc import Callable
from enum import IntEnum

from lveval.common import interrupts
from lveval.common.text import printable


class ExitCode(IntEnum):
    """What a script's exit status means; 1 is left to Python for a bug of ours."""

    COMPLETE = 0
    USAGE = 2
    INCOMPLETE = 3
    IDENTITY = 4
    SERVICE = 5
    STORAGE = 6
    HANGUP = 129
    INTERRUPTED = 130
    TERMINATED = 143


class LVEvalError(Exception):
    """A fault that the user can act on: what was found, what was expected, what to do, in a
    sentence.

    `code` is the exit code of a command that it ends.
    """

    code = ExitCode.USAGE

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class UsageError(LVEvalError):
    """A wrong option, table or installation."""


class WrongOption(UsageError):
    """A word of the command line that `program` does not take."""

    def __init__(self, program: str, message: str) -> None:
        super().__init__(message)
        self.program = program


class DataError(LVEvalError):
    """Data files that cannot be read or are not as the data card says."""


class SettingsMismatch(LVEvalError):
    """A run folder, or a run to compare with, that was made under other settings."""

    code = ExitCode.IDENTITY


class IncompleteRun(LVEvalError):
    """Rows are left without an answer; the same command goes on where this one ended."""

    code = ExitCode.INCOMPLETE


class ServiceError(LVEvalError):
    """An endpoint that refuses for good: key, quota, model or parameter."""

    code = ExitCode.SERVICE


class StorageError(LVEvalError):
    """A disk that fails, or recorded bytes that are damaged."""

    code = ExitCode.STORAGE


def unknown_name(found: str, kind: str, known: list[str]) -> LVEvalError:
    """The error for a name that is none of `known`, listing them all."""
    return UsageError(f'unknown {kind} "{found}"; expected one of: {", ".join(known)}')


def run_cli(main: Callable[[], ExitCode | int]) -> None:
    """Run a script's `main` and leave the process with its exit code.

    An LVEvalError is one sentence on standard error, never a traceback; any other exception is a
    bug of ours and keeps its traceback (exit 1). Standard output that is closed early (`| head`)
    ends quietly.
    """
    interrupts.listen()
    try:
        code = int(main())
        sys.stdout.flush()
    except LVEvalError as error:
        who = f"{error.program}: " if isinstance(error, WrongOption) else ""
        print(f"{who}error: {printable(error.message)}", file=sys.stderr)
        code = int(error.code)
    except ModuleNotFoundError as error:
        how = "run: pip install -r requirements.txt (or the extra of lveval that has it)"
        print(f"error: the package {error.name} is not installed; {how}", file=sys.stderr)
        code = int(ExitCode.USAGE)
    except KeyboardInterrupt as error:
        print(f"interrupted{interrupts.by(error)}", file=sys.stderr)
        code = interrupts.exit_code(error)
    except BrokenPipeError:
        # The reader left; point stdout at nothing so that the interpreter's own flush at exit stays
        # quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 128 + int(signal.SIGPIPE)
    if code and any(
        thread is not threading.main_thread() and not thread.daemon
        for thread in threading.enumerate()
    ):
        # A thread still answers a row that nobody will record, perhaps for minutes; Python would
        # wait for it.
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)

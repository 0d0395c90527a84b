"""What goes wrong for a user: one error class, its exit codes, and the one place that prints it.

from lveval.common.errors import DataError
raise DataError('data/lic_mixup_16k.jsonl:41: no "answers" (found: input, context, length)')
"""

import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from enum import IntEnum
from types import TracebackType

from lveval.common import interrupts, streams
from lveval.common.redaction import redacted
from lveval.common.text import first_line, printable, unbroken


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


LONGEST_MESSAGE = 3000  # characters; what was found in a damaged file may be all of it


class LVEvalError(Exception):
    """A fault that the user can act on: what was found, what was expected, what to do, in a
    sentence; one that is too long loses its middle.

    `code` is the exit code of a command that it ends.
    """

    code = ExitCode.USAGE

    def __init__(self, message: str) -> None:
        message = redacted(message)
        if len(message) > LONGEST_MESSAGE:
            message = f"{message[: LONGEST_MESSAGE // 2]} … {message[3 - LONGEST_MESSAGE // 2 :]}"
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


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception, what it was raised from or during, and so on to the first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def unknown_name(found: str, kind: str, known: list[str]) -> LVEvalError:
    """The error for a name that is none of `known`, listing them all."""
    return UsageError(f'unknown {kind} "{found}"; expected one of: {", ".join(known)}')


# Of the system's errors, those that a path or a limit of the user's causes; others are the disk's.
USERS_ERRNO = (
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP),
    *(errno.ENAMETOOLONG, errno.EINVAL, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM),
)

# What ends some of them, which is not the disk's.
REMEDIES = {
    errno.EMFILE: "raise ulimit -n",
    errno.ENFILE: "raise ulimit -n",
    errno.EFBIG: "raise ulimit -f",
}


def ending(error: BaseException) -> tuple[str, int] | None:
    """What a command says of an exception that ends it, in a line, and its exit code.

    None for a bug of ours, which keeps its traceback.
    """
    if not isinstance(error, LVEvalError):  # another one may be what an interruption broke
        error = next((each for each in causes(error) if isinstance(each, KeyboardInterrupt)), error)
    match error:
        case WrongOption():
            return f"{error.program}: error: {error.message}", int(error.code)
        case SettingsMismatch():  # a difference a line
            return f"error: {error.message}", int(error.code)
        case LVEvalError():
            return f"error: {unbroken(error.message)}", int(error.code)
        case ModuleNotFoundError():
            how = "run: pip install -r requirements.txt (or the extra of lveval that has it)"
            return f"error: the package {error.name} is not installed; {how}", int(ExitCode.USAGE)
        case ImportError():
            why = first_line(error)
            return f"error: {why}; is the memory enough, the installation whole?", int(
                ExitCode.USAGE
            )
        case KeyboardInterrupt():
            return f"interrupted{interrupts.by(error)}", interrupts.exit_code(error)
        case MemoryError():
            what = "error: the memory is not enough (ulimit -v, or the machine's)"
            return f"{what}; all answers so far are saved", int(ExitCode.USAGE)
        case OSError(errno=int(number), strerror=str(why)):
            where = f"{error.filename}: " if error.filename is not None else ""
            hint = f"; {REMEDIES[number]}" if number in REMEDIES else ""
            code = ExitCode.USAGE if number in USERS_ERRNO else ExitCode.STORAGE
            return f"error: {unbroken(where)}{why}{hint}", int(code)
    return None


def end_at(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Take the place of sys.excepthook: a line, or the traceback of a bug."""
    if (found := ending(error)) is None:
        whole = "".join(traceback.format_exception(kind, error, trace))
        print(redacted(whole), end="", file=sys.stderr, flush=True)
        return
    print(printable(redacted(found[0])), file=sys.stderr, flush=True)
    os._exit(found[1])


def run_cli(main: Callable[[], ExitCode | int]) -> None:
    """Run a script's `main` and leave the process with its exit code.

    An LVEvalError is one sentence on standard error, never a traceback, and so is what the system
    refuses; any other exception is a bug of ours and keeps its traceback (exit 1). Standard output
    that is closed early (`| head`) ends quietly.
    """
    streams.make_safe()
    interrupts.listen()
    out_of_memory = False
    message = ""
    try:
        code = int(main())
    except BrokenPipeError:
        code = 128 + int(signal.SIGPIPE)
    except BaseException as error:
        if (found := ending(error)) is None:
            raise
        message, code = found
        out_of_memory = isinstance(error, MemoryError)
    interrupts.ignore()
    if message:
        print(printable(redacted(message)), file=sys.stderr)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        streams.drop(1)
        code = code or 128 + int(signal.SIGPIPE)
    except OSError as error:
        streams.drop(1)
        if not code:
            print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
            code = int(ExitCode.STORAGE)
    at_work = any(
        thread is not threading.main_thread() and not thread.daemon
        for thread in threading.enumerate()
    )
    if out_of_memory or (code and at_work):
        # A thread still answers a row that nobody will record, perhaps for minutes; Python would
        # wait for it. Without memory libraries crash as Python's end takes them down.
        os._exit(code)
    sys.exit(code)

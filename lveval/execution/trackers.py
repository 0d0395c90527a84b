"""A run's settings and scores told to an experiment tracker: Trackio, Weights & Biases, MLflow.

    with track_run("wandb:long-context", folder, identity) as tracker:
        tracker.log(1, {"released/16k": 17.9})

A tracker is spoken to by a process of its own (tracker_process.py). Whatever goes wrong there, also
a service that does not answer, is one warning: a run never ends, waits or changes for it.
"""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from lveval.common.errors import LVEvalError
from lveval.common.files import write_atomic
from lveval.common.jsonl import encode
from lveval.common.logs import log
from lveval.common.redaction import environment_of_others
from lveval.common.text import one_line
from lveval.execution import tracker_process
from lveval.runs.spec import flatten

# Which tracked run goes on where the folder's run does; beside run.json, and no part of it.
ID_FILE = "tracked.json"
SECONDS_TO_END = 60.0  # for what is left to be sent
SECONDS_IF_INTERRUPTED = 5.0
PIPE_BYTES = 2**20  # what may wait to be read: several hundred messages
LONGEST_VALUE = 500  # characters of a setting


class Tracker:
    """One tracked run, from a start of the harness to its end."""

    def __init__(self, target: str, start: Mapping[str, object]) -> None:
        self._target = target
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the tracker
        self._process: subprocess.Popen[bytes] | None = subprocess.Popen(
            [sys.executable, "-P", tracker_process.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            # What telemetry the libraries would send of themselves is no part of what was asked.
            env={"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
            | environment_of_others(),
            start_new_session=True,  # Ctrl-C is for the run; its helpers end with it
        )
        assert self._process.stdin is not None
        self._pipe = self._process.stdin.fileno()
        with suppress(OSError):
            fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        os.set_blocking(self._pipe, False)
        self._send(start)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each curve, after so many files."""
        self._send({"final": False, "step": step, "values": values})

    def final(self, values: Mapping[str, float]) -> None:
        """Tell what the run came to."""
        self._send({"final": True, "values": values})

    def attempt(self, tell: Callable[[], object]) -> None:
        """Do what is only done to tell the tracker; a failure is a warning and its end."""
        if self._process is None:
            return
        try:
            tell()
        except Exception as error:  # noqa: BLE001 - whatever it is, the run goes on
            said = error.message if isinstance(error, LVEvalError) else repr(error)
            self._give_up(said)

    def close(self, seconds: float = SECONDS_TO_END) -> None:
        """Wait so long for what is left to be sent, then end the process."""
        process = self._process
        if process is None or process.stdin is None:
            return
        process.stdin.close()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._give_up(f"it took more than {seconds:g} s to take what was left")
            return
        except KeyboardInterrupt:
            self._end()
            raise
        if process.returncode:
            self._give_up("")
        else:
            self._end()

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(SECONDS_IF_INTERRUPTED if kind else SECONDS_TO_END)

    def _send(self, message: Mapping[str, object]) -> None:
        if self._process is None:
            return
        line = encode(message) + b"\n"
        try:
            if os.write(self._pipe, line) != len(line):
                self._give_up("it takes nothing any more")
        except BlockingIOError:
            self._give_up("it takes nothing any more")
        except OSError:  # the process has ended
            self._give_up("")

    def _give_up(self, why: str) -> None:
        """Warn, once, and end: nothing more is told."""
        process = self._process
        if process is None:
            return
        if not why:
            with suppress(subprocess.TimeoutExpired):  # its last words
                process.wait(1)
            self._errors.seek(0)
            lines = self._errors.read()[-4000:].decode(errors="replace").strip().splitlines()
            why = lines[-1] if lines else f"its process ended with {process.returncode}"
        log.warning(
            "warning: --track %s: %s; no more is tracked", self._target, one_line(why)[:300]
        )
        self._end()

    def _end(self) -> None:
        process, self._process = self._process, None
        assert process is not None
        with suppress(ProcessLookupError):  # with the helpers that a library started
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self._errors.close()


class NoTracker(Tracker):
    """What a run without --track tells: nothing to nobody."""

    def __init__(self) -> None:
        self._process = None


def track_run(target: str | None, folder: Path, identity: Mapping[str, object]) -> Tracker:
    """Begin to track the run in `folder`, or go on; `target` is KIND:PROJECT, None: not at all.

    `identity` is run.json's, which holds no secrets.
    """
    if target is None:
        return NoTracker()
    kind, _, project = target.partition(":")
    start: dict[str, object] = {"kind": kind, "project": project, "settings": settings(identity)}
    start["name"] = one_line(folder.resolve().name)
    try:
        start["id"] = _run_id(folder)
        return Tracker(target, start)
    except (OSError, LVEvalError) as error:  # a full disk, no more processes
        log.warning("warning: --track %s: %s; nothing is tracked", target, error)
        return NoTracker()


def settings(identity: Mapping[str, object]) -> dict[str, object]:
    """What decides a run's answers, flat: plain names and short plain values."""
    found: dict[str, object] = {}
    for field, text in flatten(identity):
        value = json.loads(text)
        plain = value if isinstance(value, int | float) else one_line(str(value))[:LONGEST_VALUE]
        found[re.sub(r"[^\w./ -]", "_", field)[:250]] = plain
    return found


def _run_id(folder: Path) -> str:
    """What the run is called at trackers, kept in its folder; a new one where it has none."""
    path = folder / ID_FILE
    with suppress(OSError, ValueError, TypeError, KeyError):
        found = json.loads(path.read_bytes())["id"]
        if re.fullmatch(r"[0-9a-f]{12}", found):
            return str(found)
    made = uuid.uuid4().hex[:12]
    write_atomic(path, json.dumps({"id": made}) + "\n")
    return made

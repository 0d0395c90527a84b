"""A model's chat template rendered in a process of its own, within bounds of time and memory.

    text = chat_templates.render("/models/m", template, turns, words)

A template is a program that came with the model. transformers runs it in Jinja's sandbox, which
keeps it from files and the network, not from looping for ever or filling the memory. Rendering a
prompt of 256k words takes milliseconds and megabytes.
"""

import atexit
import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lveval.backends import template_process
from lveval.backends.base import Json
from lveval.common.errors import UsageError
from lveval.common.text import one_line

SECONDS = 10
MEMORY = 1 << 30  # bytes, beside what the interpreter itself takes
LONGEST = 1 << 20  # characters that a template may put around a prompt

# Of the environment no key and no token; threads would take memory.
NEEDED = ("PATH", "HOME", "LD_LIBRARY_PATH", "PYTHONHOME")
SMALL = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


class _Renderer:
    """The process, started by the first request and again after one that ended it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def ask(self, request: Sequence[object]) -> dict[str, Any]:
        """The reply to a request; how the process ended where there is none."""
        with self._lock:
            if self._process is None:
                self._process = self._start()
            process = self._process
            assert process.stdin is not None and process.stdout is not None
            line = ""
            try:
                print(json.dumps(request), file=process.stdin, flush=True)
                line = process.stdout.readline()
            except BrokenPipeError:
                pass
            finally:  # also where it is interrupted: the next request must not get this reply
                if not line.endswith("\n"):
                    self.close()
            if not line.endswith("\n"):
                return {"ended": process.returncode}
            reply: dict[str, Any] = json.loads(line)
            return reply

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None and process.stdout is not None
            process.kill()  # what has ended keeps the code that it ended with
            process.wait()
            process.stdout.close()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()

    @staticmethod
    def _start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-P", template_process.__file__, json.dumps(sys.path), str(MEMORY)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={name: os.environ[name] for name in NEEDED if name in os.environ} | SMALL,
            start_new_session=True,  # Ctrl-C is the parent's business
            encoding="utf-8",
        )


@functools.cache
def _renderer() -> _Renderer:
    renderer = _Renderer()
    atexit.register(renderer.close)
    return renderer


def render(
    model: str, template: str, turns: Sequence[Mapping[str, object]], words: Mapping[str, Json]
) -> str:
    """The turns in the template's format, with the cue of the answer; `words` are its variables.

    `model`: the tokenizer's folder or name. Raises UsageError, which names the template's file, for
    one that fails, or that needs more than SECONDS, MEMORY or LONGEST.
    """
    longest = sum(len(str(turn["content"])) for turn in turns) + LONGEST
    reply = _renderer().ask([turns, template, words, SECONDS, longest])
    if "text" in reply:
        return str(reply["text"])
    memory = f"{MEMORY >> 20:,} MiB of memory"
    match reply:
        case {"error": str(error)}:
            found = f"fails ({one_line(error)})"
        case {"large": int(characters)}:
            found = f"makes {characters:,} characters of a prompt of {longest - LONGEST:,}"
        case {"memory": _}:
            found = f"takes more than {memory}"
        case {"ended": int(code)} if code == -signal.SIGALRM:
            found = f"takes longer than {SECONDS} s"
        case _:
            found = f"ends its process (code {reply['ended']}), which may take {memory}"
    raise UsageError(
        f"{place_of(model)}: the tokenizer's chat template {found}; mend it, or use "
        "--chat-template none"
    )


def place_of(model: str) -> str:
    """The file of a model's folder that has its chat template; of a name on the Hub the name."""
    for name in ("chat_template.jinja", "tokenizer_config.json", "chat_template.json"):
        path = Path(model) / name
        if path.is_file() and (path.suffix == ".jinja" or b"chat_template" in path.read_bytes()):
            return str(path)
    return model

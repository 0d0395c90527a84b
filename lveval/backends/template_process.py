"""The process that renders chat templates, started and bounded by chat_templates.py.

    python -P template_process.py SYS_PATH MEMORY

A request and its reply are a line of JSON each. The alarm kills the process, which also ends what
Python does not interrupt, such as a power of large numbers. Without an alarm due it ends with its
standard input.
"""

import json
import os
import resource
import signal
import sys
from pathlib import Path


def main() -> None:
    """Render what is asked for, with at most MEMORY bytes beside the interpreter's own."""
    sys.path[:] = json.loads(sys.argv[1])
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no reply
    # Of the harness nothing is imported: this file starts in moments, and has nothing to give away.
    from transformers.utils.chat_template_utils import render_jinja_template

    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]),) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        turns, template, words, seconds, longest = json.loads(line)
        signal.alarm(seconds)
        try:
            texts, _ = render_jinja_template(
                [turns], chat_template=template, add_generation_prompt=True, **words
            )
            large = len(texts[0]) > longest
            reply = json.dumps({"large": len(texts[0])} if large else {"text": texts[0]})
        except MemoryError:
            reply = json.dumps({"memory": True})
        except Exception as error:  # noqa: BLE001 - a template may raise anything
            reply = json.dumps({"error": f"{type(error).__name__}: {str(error)[:500]}"})
        signal.alarm(0)
        print(reply, file=replies, flush=True)


if __name__ == "__main__":
    main()

"""What tests of openai_batch share."""

import time

from support.service import Served


def tags(served: Served) -> list[str]:
    found = served.stats["batches"]
    assert isinstance(found, list)
    return [str(metadata["lveval_tag"]) for metadata in found]


def calls(served: Served) -> int:
    return int(str(served.stats["batch_calls"]))


def until(condition: object) -> None:
    assert callable(condition)
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)

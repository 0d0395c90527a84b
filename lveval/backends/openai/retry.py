"""TODO lveval.backends.openai.retry."""

import random
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from lveval.backends.openai.faults import ApiError, classify_exception, redacted
from lveval.common.errors import IncompleteRun, LVEvalError, ServiceError
from lveval.common.text import printable

if TYPE_CHECKING:
    pass

LONGEST_BACKOFF = (
    60.0  # seconds between the tries of a row, where the service does not ask for more
)

RESUME_HINT = "all answers so far are saved; run the same command again when it is mended"


# Set while a run ends: a thread that waits for the service must not hold the process.
shutting_down = threading.Event()


Got = TypeVar("Got")


def backoff(failures: int, first: float) -> float:
    """Seconds to wait after so many failures of a row, one after another: doubling, with jitter."""
    return min(LONGEST_BACKOFF, first * 2.0 ** min(failures - 1, 20)) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter


@dataclass(frozen=True)
class RetryPolicy:
    """How long a service that fails is waited for."""

    first: float  # seconds after the first failure
    longest: float  # of what a service asks for, the most that is obeyed, in seconds
    max_outage: float  # hours without any answer

    def pause(self, failures: int, fault: ApiError) -> float:
        """Seconds to wait after so many failures, one after another: what the service asks for, or more each time."""
        return max(
            min(fault.retry_after or 0.0, self.longest),
            min(backoff(failures, self.first), self.longest),
        )

    def outage(self, since: float, fault: ApiError) -> LVEvalError | None:
        """The run's end, where the service has answered nothing since `since` (monotonic) for too long."""
        silent = time.monotonic() - since
        if silent <= self.max_outage * 3600:
            return None
        return IncompleteRun(
            f"the service answered nothing for {silent / 3600:.1f} h ({fault.message}); {RESUME_HINT}"
        )


def call_with_retry(
    call: Callable[[], Got],
    waits: RetryPolicy,
    unless: Callable[[], Got | None] | None = None,
    *,
    hint: str = "",
) -> Got:
    """`call`, one blocking request, repeated while its failures pass; raises LVEvalError where they do not.

    After a failure `unless` tells whether the thing was done all the same. `hint` ends the message.
    """
    import openai

    failures, began = 0, time.monotonic()
    while True:
        try:
            if failures and unless is not None and (found := unless()) is not None:
                return found
            got = call()
            if not isinstance(
                got, str
            ):  # the client hands on a reply of another kind than JSON as it is
                return got
            fault = ApiError("malformed", "the reply is no JSON")
        except openai.APIError as error:
            fault = redacted(classify_exception(error))
        except ValueError:
            fault = ApiError("malformed", "the reply is no JSON")
        failures += 1
        if fault.kind in ("fatal", "bad", "row"):
            raise ServiceError(f"{fault.message}; {RESUME_HINT}{hint}")
        if ended := waits.outage(began, fault):
            raise ended
        print(printable(f"waiting for the service: {fault.message}"), file=sys.stderr)
        if shutting_down.wait(waits.pause(failures, fault)):
            raise IncompleteRun(f"the run ends ({fault.message})")

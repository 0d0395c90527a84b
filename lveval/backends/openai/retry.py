"""When a failed request is repeated: the waits, and the failures that end the run.

policy = settings.retry_policy(options)
batch = call_with_retry(lambda: client.batches.retrieve(batch_id), policy)
"""

import math
import random
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TypeVar

from lveval.backends.openai.faults import PERMANENT, ApiError, Kind, classify_exception
from lveval.common.errors import IncompleteRun, LVEvalError, ServiceError
from lveval.common.logs import log

LONGEST_BACKOFF = 60.0  # seconds, where the service does not ask for more

# A row is given up after so many failures while the service answered others: an outage fails none.
# Fewer of one kind are enough where the row itself may be the cause of each.
MAX_FAILURES = 30

MAX_SAME_FAILURES = {"malformed": 8, "timeout": 5, "fatal": 3}

# Hours in which no row is answered, though the service is there: waiting did not help.
LONGEST_VAIN = 1.0

LONGEST_CALL = 3600.0  # seconds: a batch's file of 200 MB may have a slow line to go up

RESUME_HINT = "all answers so far are saved; run the same command again when it is mended"


# Set while a run ends: a thread that waits for the service must not hold the process.
shutting_down = threading.Event()


Got = TypeVar("Got")


@dataclass(frozen=True)
class RetryPolicy:
    """How long to wait for a service that fails, and when to end the run."""

    first_wait: float  # seconds after the first failure
    longest_wait: float  # seconds, of what a service asks for
    max_outage: float  # hours without any answer
    wait_for_service: float = math.inf  # minutes, for the first answer

    @property
    def at_start(self) -> "RetryPolicy":
        """The policy for a service that has not answered yet."""
        return replace(self, max_outage=min(self.max_outage, self.wait_for_service / 60))

    @property
    def of_rows(self) -> "RetryPolicy":
        """The policy where rows wait in vain while a short question is answered."""
        return replace(self, max_outage=min(self.max_outage, LONGEST_VAIN))

    def delay(self, failures: int, fault: ApiError) -> float:
        """Return the seconds to wait after consecutive failures: doubling, with jitter."""
        jitter = random.uniform(0.5, 1.0)  # noqa: S311
        backoff = min(LONGEST_BACKOFF, self.first_wait * 2.0 ** min(failures - 1, 20)) * jitter
        return min(self.longest_wait, max(fault.retry_after or 0.0, backoff))

    def run_end(
        self,
        fault: ApiError,
        last_answer: float,
        permanent: Collection[Kind] = PERMANENT,
        hint: str = "",
    ) -> LVEvalError | None:
        """Return why the run ends: a failure that is permanent, or an outage that is too long.

        `last_answer` is the time (monotonic) since which the service has answered nothing; `hint`
        ends the message of a permanent failure.
        """
        if fault.kind in permanent:
            return ServiceError(f"{fault.message}; {RESUME_HINT}{hint}")
        hours = (time.monotonic() - last_answer) / 3600
        if hours <= self.max_outage:
            return None
        long = f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.1f} minutes"
        return IncompleteRun(
            f"the service answered nothing for {long} ({fault.message}); {RESUME_HINT}"
        )


def log_waiting(fault: ApiError) -> None:
    """Say what is waited for."""
    log.warning("waiting for the service: %s", fault.message)


def within(seconds: float, call: Callable[[], Got]) -> Got:
    """Return what `call`, a blocking request, returns; TimeoutError after `seconds` in all.

    The client's own limit is the wait for each byte, which a reply that trickles never meets. The
    thread of a request that is given up ends with its connection, or else with the process.
    """
    reply: Future[Got] = Future()

    def ask() -> None:
        try:
            reply.set_result(call())
        except BaseException as error:  # noqa: BLE001 - handed to the caller, who raises it
            reply.set_exception(error)

    threading.Thread(target=ask, name="request", daemon=True).start()
    return reply.result(seconds)


def call_with_retry(
    call: Callable[[], Got],
    policy: RetryPolicy,
    already_done: Callable[[], Got | None] = lambda: None,
    *,
    seconds: float = LONGEST_CALL,
    hint: str = "",
) -> Got:
    """Repeat `call`, a blocking request, while its failures are transient.

    A call may take `seconds`. After a failure `already_done` looks for the result of a request
    whose reply got lost. `hint` ends the message of a permanent failure. Raises ServiceError or
    IncompleteRun.
    """
    import openai

    failures, began = 0, time.monotonic()
    while True:
        fault = ApiError("malformed", "the reply is no JSON")
        try:
            if failures and (found := within(seconds, already_done)) is not None:
                return found
            result = within(seconds, call)
            # The client hands on a reply of another kind than JSON as text.
            if not isinstance(result, str):
                return result
        except (openai.APIError, TimeoutError) as error:
            fault = classify_exception(error)
        except (ValueError, RecursionError):
            pass
        failures += 1
        if ended := policy.run_end(fault, began, hint=hint):
            raise ended
        log_waiting(fault)
        if shutting_down.wait(policy.delay(failures, fault)):
            raise IncompleteRun(f"the run ends ({fault.message})")

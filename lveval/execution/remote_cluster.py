"""Workers on other machines: a Dask scheduler of the user's, and what its workers must agree on.

    python prediction.py --scheduler tls://head:8786 --tls-cert cert.pem --tls-key key.pem ...

Workers come and go while a run goes on. Each shows, before its first answer, that it has the same
code and would answer under the same settings as the run. What decides the answers is asked of a
worker, not of this machine, which may have neither a GPU nor the model.
"""

import hashlib
import json
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from lveval import user_tables
from lveval.backends import backend_module
from lveval.backends.base import EngineOptions, Json
from lveval.common.errors import IncompleteRun, LVEvalError, UsageError
from lveval.common.logs import log
from lveval.common.text import first_line
from lveval.execution.dask_executor import DaskExecutor
from lveval.options import Scheduler
from lveval.runs.spec import differences

T = TypeVar("T")

Environment = Mapping[str, Json]

# How often the cluster is asked for its size, in seconds.
POLL_SECONDS = 1.0

RESUME = "all answers so far are saved; run the same command again"  # the end of many messages

LOUD = ("distributed", "distributed.client")  # each has a level of its own

# Answers still on their way fail in its event loop as that closes; nobody waits for them any more.
LOUD_AT_CLOSE = "tornado.application"


def silence(*loggers: str) -> None:
    """Switch off loggers of Dask: what goes wrong reaches the user as one sentence."""
    for name in loggers:
        logging.getLogger(name).setLevel(logging.CRITICAL)


# --- In every process ---------------------------------------------------------------------------


def _code() -> dict[str, Json]:
    """File -> hash, of all code that may turn a row into an answer."""
    package = Path(__file__).resolve().parent.parent
    families = ("backends", "common", "data", "execution", "runs")
    files = [package / "config.py", package / "metrics.py", package / "utils.py"]
    files += sorted(path for name in families for path in (package / name).rglob("*.py"))
    return {
        str(path.relative_to(package)): hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        for path in files
    }


# Taken as the code is imported: the files may change under a worker that lives for days.
CODE = _code()


def loaded_code() -> dict[str, Json]:
    """Return CODE, and the user's own tables that this process has taken."""
    return {**CODE, **user_tables.fingerprints()}


def software_versions() -> dict[str, Json]:
    """Return what lets processes understand each other: the versions of Python and Dask."""
    return {
        "python": ".".join(map(str, sys.version_info[:2])),
        "distributed": metadata.version("distributed"),
    }


def environment(backend: str, options: EngineOptions) -> dict[str, Json]:
    """Return what this process would answer with: its code, versions and engine."""
    engine = backend_module(backend).settings_fingerprint(options)
    # Plain values only: torch's version is an object of its own, which needs torch to be read.
    return {"code": loaded_code(), **software_versions(), "engine": json.loads(json.dumps(engine))}


def window_of(backend: str, options: EngineOptions) -> int | None:
    """Return the model's window in tokens, in a worker, which may be alone to have the model."""
    return backend_module(backend).context_window(options)


_verified: Environment | None = None


def verify_environment(backend: str, options: EngineOptions, expected: Environment) -> None:
    """Raise a UsageError, in a worker, where its code or settings are not those of the run."""
    global _verified
    if _verified != expected:
        _require_same_environment("it", expected, environment(backend, options))
        _verified = expected


@contextmanager
def verified_worker(backend: str, options: EngineOptions, expected: Environment) -> Iterator[None]:
    """Enter a worker's block only in the `expected` environment; LVEvalErrors name the worker."""
    from distributed import get_worker

    try:
        verify_environment(backend, options, expected)
        yield
    except LVEvalError as error:
        raise type(error)(f"worker {get_worker().address}: {error.message}") from None


def _require_same_environment(where: str, expected: Environment, found: Environment) -> None:
    unlike = list(differences(expected, found))
    files = [field.removeprefix("code.") for field, *_ in unlike if field.startswith("code.")]
    if files:
        raise UsageError(
            f"{where} runs other code than this command "
            f"({', '.join(files[:5])}{' …' if files[5:] else ''}); give it the same checkout, "
            "restart it, and run the same command again"
        )
    if unlike:
        fields = "; ".join(f"{field}: found {new}, expected {old}" for field, old, new in unlike)
        raise UsageError(
            f"{where} differs from what this run expects ({fields}); make it the same or stop it, "
            "and run the same command again"
        )


# --- In the coordinator -------------------------------------------------------------------------


class Cluster(DaskExecutor):
    """The workers of a scheduler, as many as there are at the moment."""

    # distributed has no types
    def __init__(self, client: Any, scheduler: Scheduler) -> None:  # noqa: ANN401
        super().__init__(client)
        self._scheduler = scheduler
        self._name = f"the scheduler at {scheduler.address}"
        self._limit = f"{scheduler.wait_minutes:g} minutes (--wait-for-workers)"
        self._known = -1  # the number of workers at the last look
        self._asked = -POLL_SECONDS
        self._alone_since = time.monotonic()

    def size(self) -> int:
        """Return the number of workers, at most a second old.

        Raises IncompleteRun where the scheduler is lost, or no worker was there for `wait_minutes`.
        """
        now = time.monotonic()
        if now - self._asked < POLL_SECONDS:
            return self._known
        self._asked = now
        found = len(self._ask(self._client.nthreads))
        if found != self._known:
            if self._known >= 0 or not found:
                self._log_size(found)
            self._alone_since = now
        self._known = found
        if not found and now - self._alone_since > 60 * self._scheduler.wait_minutes:
            raise IncompleteRun(
                f"no worker was connected to {self._scheduler.address} for {self._limit}; start "
                f"workers; {RESUME}"
            )
        return found

    def agree(self, backend: str, options: EngineOptions) -> Environment:
        """Wait for a worker and return the environment that all workers share.

        Raises UsageError naming a worker, or the scheduler, that differs.
        """
        versions = self._ask(self._client.run_on_scheduler, software_versions)
        _require_same_environment(self._name, software_versions(), versions)
        while True:
            self._wait_for_worker()
            agreed = self._shared_environment(backend, options)
            if agreed is not None:
                self._log_size(self._known)
                self._warn_of_few_threads(backend_module(backend).max_concurrent_rows(options))
                return agreed
            time.sleep(POLL_SECONDS)

    def context_window(self, backend: str, options: EngineOptions) -> int | None:
        """Wait for a worker and return what it knows of the model's window, in tokens."""
        self._wait_for_worker()
        asked = self._client.submit(window_of, backend, options, pure=False)
        window: int | None = self._ask(asked.result)
        return window

    def _wait_for_worker(self) -> None:
        while not self.size():
            time.sleep(POLL_SECONDS / 5)

    def _shared_environment(self, backend: str, options: EngineOptions) -> Environment | None:
        """The environment of all workers, None where they were all lost meanwhile."""
        replies = self._ask(self._client.run, environment, backend, options, on_error="return")
        agreed: Environment | None = None
        for address, found in replies.items():
            if isinstance(found, OSError) and address not in self._ask(self._client.nthreads):
                continue  # it has just been lost
            if isinstance(found, LVEvalError):
                raise type(found)(f"worker {address}: {found.message}")
            if isinstance(found, BaseException):
                raise _foreign_code(f"worker {address}", found)
            # Of the first worker only the engine is taken on: code and versions must be those of
            # this process.
            ours = {"code": loaded_code(), **software_versions()}
            agreed = agreed or {**ours, "engine": found.get("engine")}
            _require_same_environment(f"worker {address}", agreed, found)
        return agreed

    def _warn_of_few_threads(self, rows: int) -> None:
        threads = min(self._ask(self._client.nthreads).values(), default=0)
        if 0 < threads <= rows > 1:
            log.info(
                f"warning: a worker of {threads} threads gives its engine {threads} rows at once, "
                f"of {rows} that it could compute together; start the workers with --nthreads "
                f"{rows + 1}"
            )

    def _ask(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:  # noqa: ANN401
        """Return what `call` of the client gives; its failures become LVEvalErrors."""
        try:
            if self._client.status != "running":  # it would try to connect again for a while
                raise ConnectionError("connection lost")
            return call(*args, **kwargs)
        except OSError as error:
            raise IncompleteRun(
                f"{self._name} was lost ({first_line(error)}); start it and its workers again; "
                f"{RESUME}"
            ) from error
        except LVEvalError:  # what a worker says
            raise
        except Exception as error:  # a process of other versions may make anything of a message
            raise _foreign_code(self._name, error) from error

    def _log_size(self, found: int) -> None:
        address = self._scheduler.address
        waiting = f"no worker is connected to {address}: waiting for one, up to {self._limit}"
        log.info(f"workers at {address}: {found}" if found else waiting)


def _foreign_code(where: str, error: BaseException) -> LVEvalError:
    return UsageError(
        f"{where} cannot run the harness's code ({first_line(error)}); install this "
        "version there (pip install, or the checkout on PYTHONPATH) with its packages, as "
        "docs/cluster.md shows"
    )


@contextmanager
def connect(scheduler: Scheduler) -> Iterator[Cluster]:
    """Connect to a running scheduler; it goes on living afterwards, without this run's tasks.

    Raises UsageError where there is no scheduler, or none that takes these certificates.
    """
    from distributed import Client
    from distributed.versions import VersionMismatchWarning

    silence(*LOUD)
    warnings.simplefilter("ignore", VersionMismatchWarning)  # `agree` refuses those that matter
    security = _security(scheduler)
    try:
        client = Client(scheduler.address, security=security, set_as_default=False, name="lv-eval")
    except Exception as error:  # sockets, TLS and whatever program listens there
        raise UsageError(
            f"--scheduler {scheduler.address}: no Dask scheduler answers there "
            f"({first_line(error)}); expected a running `dask scheduler` with that address and "
            "protocol, and with certificates of the same authority"
        ) from error
    with client:
        try:
            yield Cluster(client, scheduler)
        finally:
            silence(LOUD_AT_CLOSE)


def _security(scheduler: Scheduler) -> Any:  # noqa: ANN401
    """The client's side of TLS: from the options, else from Dask's own configuration."""
    from distributed.security import Security

    if scheduler.insecure and scheduler.address.startswith("tcp"):
        return Security(require_encryption=False)
    options = {
        "tls_ca_file": scheduler.ca_file,
        "tls_client_cert": scheduler.cert,
        "tls_client_key": scheduler.key,
    }
    given = {name: str(path) for name, path in options.items() if path is not None}
    try:
        security = Security(require_encryption=True, **given)
        if security.get_connection_args("client")["ssl_context"] is not None:
            return security
        problem = "found no certificates"
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        problem = f"the certificates cannot be used ({first_line(error)})"
    raise UsageError(
        f"--scheduler {scheduler.address}: {problem}; expected --tls-ca-file, --tls-cert and "
        "--tls-key (PEM files), or the same in Dask's configuration (distributed.comm.tls)"
    )

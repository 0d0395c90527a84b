"""Workers on other machines: a Dask scheduler that the user started, and what its workers must agree on.

    python prediction.py --scheduler tls://head:8786 --tls-ca-file cert.pem --tls-cert cert.pem --tls-key key.pem ...

Workers come and go while a run goes on. Each vouches, before its first answer, that it has the same code and would
answer under the same settings as the run; what decides the answers is asked of a worker, not of this machine, which
may have neither a GPU nor the model.
"""

import hashlib
import json
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from lveval.backends import backend_module
from lveval.backends.base import EngineOptions, Json
from lveval.common.errors import IncompleteRun, LVEvalError, UsageError
from lveval.options import Scheduler

T = TypeVar("T")

Environment = Mapping[str, Json]


# How often the cluster is asked for its size, in seconds.
POLL_SECONDS = 1.0


# --- In every process -------------------------------------------------------------------------------------------------


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


def software_versions() -> dict[str, Json]:
    """What must be the same for processes to understand each other: the versions of Python and Dask."""
    return {
        "python": ".".join(map(str, sys.version_info[:2])),
        "distributed": metadata.version("distributed"),
    }


def environment(backend: str, options: EngineOptions) -> dict[str, Json]:
    """What this process would answer with: its code, its software, and the engine's identity as seen from here."""
    engine = backend_module(backend).settings_fingerprint(options)
    # Plain values only: torch's version, for one, is an object of its own, and the run's machine may have no torch.
    return {"code": CODE, **software_versions(), "engine": json.loads(json.dumps(engine))}


_verified: Environment | None = None


def verify_environment(backend: str, options: EngineOptions, expected: Environment) -> None:
    """Refuse, in a worker, to answer with other code or under other settings than the run's. Raises HarnessError."""
    global _verified
    if _verified != expected:
        _require_same_environment("it", expected, environment(backend, options))
        _verified = expected


@contextmanager
def worker_named_in_errors() -> Iterator[None]:
    """A block in a worker whose HarnessErrors say which worker it is: there are many."""
    from distributed import get_worker

    try:
        yield
    except LVEvalError as error:
        raise type(error)(f"worker {get_worker().address}: {error.message}") from None


def _require_same_environment(where: str, expected: Environment, found: Environment) -> None:
    """HarnessError naming what differs."""
    old, new = dict(_flat(expected)), dict(_flat(found))
    fields = sorted(field for field in old.keys() | new.keys() if old.get(field) != new.get(field))
    files = [field.removeprefix("code.") for field in fields if field.startswith("code.")]
    if files:
        raise UsageError(
            f"{where} runs other code than this command ({', '.join(files[:5])}{' …' if files[5:] else ''}); give it "
            "the same checkout, restart it, and run the same command again"
        )
    if fields:
        told = "; ".join(
            f"{field}: found {new.get(field)}, expected {old.get(field)}" for field in fields
        )
        raise UsageError(
            f"{where} differs from what this run expects ({told}); make it the same or stop it, and run the same "
            "command again"
        )


def _flat(value: Json | Mapping[str, Json], field: str = "") -> Iterator[tuple[str, Json]]:
    """(dotted field, value) of everything below `value`."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{field}.{key}" if field else key)
    else:
        yield field, value


# --- In the coordinator -----------------------------------------------------------------------------------------------


class Cluster(Executor):
    """The workers of a scheduler, as many as there are at the moment; Dask hands them their tasks."""

    def __init__(self, client: Any, scheduler: Scheduler) -> None:  # noqa: ANN401 - distributed has no types
        self._client = client
        self._scheduler = scheduler
        self._executor = client.get_executor(pure=False)
        self._known = -1  # the number of workers that was told last
        self._asked = -POLL_SECONDS
        self._alone_since = time.monotonic()

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":  # noqa: ANN401
        """Have a worker call `fn`; without a worker it waits for one."""
        future: Future[T] = self._executor.submit(fn, *args, **kwargs)
        return future

    def size(self) -> int:
        """The number of workers, at most a second old.

        Raises HarnessError (INCOMPLETE) where the scheduler is lost, or no worker was there for `wait_minutes`.
        """
        now = time.monotonic()
        if now - self._asked < POLL_SECONDS:
            return self._known
        self._asked = now
        found = len(self._ask(self._client.nthreads))
        if found != self._known:
            if self._known >= 0 or not found:
                self._tell(found)
            self._alone_since = now
        self._known = found
        if not found and now - self._alone_since > 60 * self._scheduler.wait_minutes:
            raise IncompleteRun(
                f"no worker was connected to {self._scheduler.address} for {self._scheduler.wait_minutes:g} minutes "
                "(--wait-for-workers); all answers so far are saved; start workers and run the same command again"
            )
        return found

    def agree(self, backend: str, options: EngineOptions) -> Environment:
        """Wait for a worker; what decides the answers of the workers that are there. Raises HarnessError naming one."""
        versions = self._ask(self._client.run_on_scheduler, software_versions)
        _require_same_environment(
            f"the scheduler at {self._scheduler.address}", software_versions(), versions
        )
        while True:
            while not self.size():
                time.sleep(POLL_SECONDS / 5)
            agreed: Environment | None = None
            for address, found in self._ask(
                self._client.run, environment, backend, options, on_error="return"
            ).items():
                if isinstance(found, OSError) and address not in self._ask(self._client.nthreads):
                    continue  # it has just been lost
                if isinstance(found, LVEvalError):
                    raise type(found)(f"worker {address}: {found.message}")
                if isinstance(found, BaseException):
                    raise _without_code(f"worker {address}", found)
                agreed = agreed or {
                    "code": CODE,
                    **software_versions(),
                    "engine": found.get("engine"),
                }
                _require_same_environment(f"worker {address}", agreed, found)
            if agreed is not None:
                self._tell(self._known)
                threads = min(self._ask(self._client.nthreads).values(), default=0)
                rows = backend_module(backend).max_concurrent_rows(options)
                if 0 < threads <= rows > 1:
                    self._say(
                        f"warning: a worker of {threads} threads gives its engine {threads} rows at once, of {rows} "
                        f"that it could compute together; start the workers with --nthreads {rows + 1}"
                    )
                return agreed
            time.sleep(POLL_SECONDS)

    def _ask(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:  # noqa: ANN401
        """What `call` of the client gives, its failures told as one sentence."""
        try:
            if self._client.status != "running":  # it would try to connect again for a while
                raise ConnectionError("connection lost")
            return call(*args, **kwargs)
        except OSError as error:
            raise IncompleteRun(
                f"the scheduler at {self._scheduler.address} was lost ({_first_line(error)}); all answers so far are "
                "saved; start it and its workers again, then run the same command again"
            ) from error
        except (
            Exception
        ) as error:  # what an unlike process makes of a message is not ours to foresee
            raise _without_code(f"the scheduler at {self._scheduler.address}", error) from error

    def _say(self, line: str) -> None:
        from tqdm import tqdm

        tqdm.write(line, file=sys.stderr)

    def _tell(self, found: int) -> None:
        address, limit = self._scheduler.address, f"{self._scheduler.wait_minutes:g} minutes"
        waiting = f"no worker is connected to {address}: waiting for one, up to {limit} (--wait-for-workers)"
        self._say(f"workers at {address}: {found}" if found else waiting)


def _without_code(where: str, error: BaseException) -> LVEvalError:
    return UsageError(
        f"{where} cannot run the harness's code ({_first_line(error)}); start it with this checkout on its PYTHONPATH "
        "and the packages of requirements.txt, as README shows under Several machines"
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def connect(scheduler: Scheduler) -> Iterator[Cluster]:
    """The cluster of a running scheduler; it goes on living afterwards, without this run's tasks.

    Raises HarnessError where there is no scheduler, or none that takes these certificates.
    """
    from distributed import Client
    from distributed.versions import VersionMismatchWarning

    logging.getLogger("distributed").setLevel(
        logging.CRITICAL
    )  # what it has to tell reaches us as exceptions
    warnings.simplefilter("ignore", VersionMismatchWarning)  # `agree` refuses those that matter
    security = _security(scheduler)
    try:
        client = Client(scheduler.address, security=security, set_as_default=False, name="lv-eval")
    except Exception as error:  # sockets, TLS and whatever program listens there
        raise UsageError(
            f"--scheduler {scheduler.address}: no Dask scheduler answers there ({_first_line(error)}); expected a "
            "running `dask scheduler` with that address and protocol, and with certificates of the same authority"
        ) from error
    with client:
        try:
            yield Cluster(client, scheduler)
        finally:
            # Answers still on their way fail in Dask's event loop as it closes; nobody waits for them any more.
            for name in ("distributed.client", "tornado.application"):
                logging.getLogger(name).setLevel(logging.CRITICAL)


def _security(scheduler: Scheduler) -> Any:  # noqa: ANN401
    """The client's side of TLS: from the options, else from Dask's own configuration. Raises HarnessError."""
    from distributed.security import Security

    if scheduler.insecure and scheduler.address.startswith("tcp"):
        return Security(require_encryption=False)
    asked = {
        "tls_ca_file": scheduler.ca_file,
        "tls_client_cert": scheduler.cert,
        "tls_client_key": scheduler.key,
    }
    given = {name: str(path) for name, path in asked.items() if path is not None}
    try:
        security = Security(require_encryption=True, **given)
        if security.get_connection_args("client")["ssl_context"] is not None:
            return security
        problem = "found no certificates"
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        problem = f"the certificates cannot be used ({_first_line(error)})"
    raise UsageError(
        f"--scheduler {scheduler.address}: {problem}; expected --tls-ca-file, --tls-cert and --tls-key (PEM files), or "
        "the same in Dask's configuration (distributed.comm.tls)"
    )

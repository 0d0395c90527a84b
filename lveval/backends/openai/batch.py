"""The Batch API of the OpenAI backend: files of requests, answered within a day, at a lower price.

    python prediction.py --backend openai --batch --model-name gpt-4o-mini --model-max-len 127500

A batch costs money once it is submitted, so a kill at any point must neither lose nor repeat one:
its requests and a tag are on disk before, the tag is sent as metadata, and the next start looks for
a batch of that tag at the service.
"""

import json
import time
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lveval.backends.base import ApiOptions, EngineOptions, Generation, Prompt, RowKey
from lveval.backends.openai.faults import PERMANENT, ApiError, classify_status
from lveval.backends.openai.responses import failed_generation
from lveval.backends.openai.retry import RESUME_HINT, call_with_retry
from lveval.backends.openai.service import Service, ServiceEngine
from lveval.common.errors import IncompleteRun, LVEvalError, ServiceError, StorageError, UsageError
from lveval.common.files import disk_errors, durable_mkdir, write_atomic
from lveval.common.jsonl import encode
from lveval.common.logs import log
from lveval.common.redaction import excerpt

if TYPE_CHECKING:
    import openai


# The service's limit on a file of requests; that on its bytes bounds openai_api's batch_mb.
MOST_REQUESTS = 50_000

TAG = "lveval_tag"  # of a batch's metadata

TERMINAL = ("completed", "expired", "cancelled", "failed")

# How often a row is sent again in a later batch.
MAX_RESUBMISSIONS = 3

# How often to submit again while the account's queue is full and holds no batch of this run.
QUEUE_TRIES = 10


Got = TypeVar("Got")


@dataclass
class BatchFile:
    """Requests in `<folder>/<name>.jsonl` and their batch, as kept in `<folder>/<name>.json`."""

    name: str
    tag: str
    keys: list[str]
    file_id: str = ""
    batch_id: str = ""
    collected: bool = False


class BatchEngine(ServiceEngine):
    """The service's Batch API; all prompts are taken before the first answer comes."""

    def __init__(self, service: Service, folder: Path, poll: float, most_bytes: int) -> None:
        super().__init__(service)
        self._folder = folder
        self._poll = poll  # seconds between two looks
        self._stop: LVEvalError | None = None  # why no more is submitted
        self._most_bytes = most_bytes

    def generate(self, prompts: Iterable[Prompt]) -> Iterator[tuple[int, Generation]]:
        """Submit what is not in flight, wait and collect; transient failures are sent again."""
        with self._service.blocking_client() as client:
            run = _BatchRun(client, pending=open_parts(self._folder))
            run.pending += self._write(self._requests(prompts, run))
            while run.pending or run.deferred:
                self._submit(client, run.pending)
                for part, batch in self._ended(run):
                    yield from self._finish(part, batch, run)
                run.resume_deferred()
                if run.pending:
                    time.sleep(self._poll)

    def _ended(self, run: "_BatchRun") -> Iterator[tuple[BatchFile, Any]]:
        """Look at each pending batch once and take out those that have ended."""
        for part in list(run.pending):
            retrieve = _validated(
                run.client.batches.retrieve, "id", "status", batch_id=part.batch_id
            )
            batch = self._ask(retrieve, part=part)
            _log_progress(batch, run.progress)
            if batch.status in TERMINAL:
                run.pending.remove(part)
                yield part, batch

    def _finish(
        self,
        part: BatchFile,
        batch: Any,  # noqa: ANN401 - an openai Batch
        run: "_BatchRun",
    ) -> Iterator[tuple[int, Generation]]:
        if batch.status == "failed":
            self._renew(part, batch)
            run.deferred.append(part)
            return
        run.has_capacity = True
        lines: dict[str, bytes] = {}
        limits: dict[str, int | None] = {}  # the new tokens that each request asks for
        for line in self._lines(part):
            request = json.loads(line)
            lines[request["custom_id"]] = line
            limits[request["custom_id"]] = self._service.limit_of(request["body"])
        again = yield from self._collect(part, batch, run, limits)
        run.deferred += self._write(line for key, line in lines.items() if key in again)
        self._close(part)
        if self._stop:
            raise self._stop

    def _requests(self, prompts: Iterable[Prompt], run: "_BatchRun") -> Iterator[bytes]:
        """Encode the requests of the prompts that are in no batch."""
        in_flight = {key for part in run.pending for key in part.keys}
        for position, prompt in enumerate(prompts):
            run.positions[prompt.key] = position
            if prompt.key in in_flight:
                continue
            path, body = self._service.request(prompt)
            body = {k: v for k, v in body.items() if k not in ("stream", "stream_options")}
            request = {"custom_id": prompt.key, "method": "POST", "url": f"/v1{path}", "body": body}
            yield encode(request) + b"\n"

    def _write(self, requests: Iterable[bytes]) -> list[BatchFile]:
        """Files of requests within the service's limits."""
        parts: list[BatchFile] = []
        pending: list[bytes] = []
        size = 0
        for line in requests:
            if pending and (size + len(line) > self._most_bytes or len(pending) == MOST_REQUESTS):
                parts.append(self._write_part(pending))
                pending, size = [], 0
            pending.append(line)
            size += len(line)
        return [*parts, self._write_part(pending)] if pending else parts

    def _write_part(self, requests: Sequence[bytes]) -> BatchFile:
        """The file of requests is there whole before its part is, which counts from then on."""
        name = uuid.uuid4().hex
        part = BatchFile(name, name, [json.loads(line)["custom_id"] for line in requests])
        path = self._folder / f"{name}.jsonl"
        with disk_errors("writing", path):
            durable_mkdir(self._folder)
            write_atomic(path, b"".join(requests).decode())
        self._keep(part)
        return part

    def _keep(self, part: BatchFile) -> None:
        path = self._folder / f"{part.name}.json"
        with disk_errors("writing", path):
            write_atomic(path, json.dumps(asdict(part)) + "\n")

    def _close(self, part: BatchFile) -> None:
        """All of it is recorded, or part of another: its requests are not needed any more."""
        part.collected = True
        self._keep(part)
        with disk_errors("removing", self._folder):
            (self._folder / f"{part.name}.jsonl").unlink(missing_ok=True)

    def _submit(self, client: "openai.OpenAI", parts: Sequence[BatchFile]) -> None:
        """Create batches; one that a killed start created already is found by its tag."""
        for part in parts:
            if part.batch_id:
                continue
            find = partial(_find_by_tag, client, part.tag)
            found = self._ask(find) if part.file_id else None  # without a file there is no batch
            if found is None:
                if not part.file_id:
                    path = self._folder / f"{part.name}.jsonl"
                    part.file_id = self._ask(
                        _validated(client.files.create, "id", file=path, purpose="batch")
                    ).id
                    self._keep(part)
                endpoint: Any = "/v1/chat/completions" if self.native_chat else "/v1/completions"
                create = _validated(
                    client.batches.create,
                    "id",
                    input_file_id=part.file_id,
                    endpoint=endpoint,
                    completion_window="24h",
                    metadata={TAG: part.tag},
                )
                found = self._ask(create, already_done=find)
            part.batch_id = found.id
            self._keep(part)

    def _renew(self, part: BatchFile, batch: Any) -> None:  # noqa: ANN401 - an openai Batch
        """Prepare a batch that found the queue full for another try; else raises ServiceError."""
        errors = getattr(batch.errors, "data", None) or []
        if {error.code for error in errors} != {"token_limit_exceeded"}:
            words = (
                "; ".join(f"{error.code}: {error.message}" for error in errors) or "no reason given"
            )
            self._close(part)  # its rows go into another batch on the next start
            raise ServiceError(f"the service refused the batch {batch.id} ({words}); {RESUME_HINT}")
        part.tag, part.file_id, part.batch_id = uuid.uuid4().hex, "", ""  # nothing of it is out
        self._keep(part)

    def _lines(self, part: BatchFile) -> list[bytes]:
        path = self._folder / f"{part.name}.jsonl"
        with disk_errors("reading", path):
            return path.read_bytes().splitlines(keepends=True)

    def _collect(
        self,
        part: BatchFile,
        batch: Any,  # noqa: ANN401 - an openai Batch
        run: "_BatchRun",
        limits: Mapping[str, int | None],
    ) -> Generator[tuple[int, Generation], None, set[str]]:
        """Yield the rows of a batch that has ended; returns the keys that are to be sent again."""
        ends = self._read_ends(part, batch, run.client, limits)
        answers = any(isinstance(end, Generation) for end in ends.values())
        again: set[str] = set()
        # What is paid for first.
        for key in sorted(part.keys, key=lambda key: not isinstance(ends.get(key), Generation)):
            position = run.positions.get(key)
            if position is None:  # recorded already, or not selected this time
                continue
            end = ends.get(key) or ApiError(
                "transient", f"the batch ended ({batch.status}) without a reply to this row"
            )
            if isinstance(end, Generation):
                yield position, end
                continue
            # A failure of the account's, among answers, is the row's.
            if end.field == "model" or (end.kind == "fatal" and not answers):
                self._stop = ServiceError(f"{end.message}; {RESUME_HINT}")
            elif end.kind in PERMANENT or run.resubmissions[key] == MAX_RESUBMISSIONS:
                yield position, failed_generation(end)
            elif batch.status == "cancelled":  # by its owner, who decides what is sent again
                self._stop = self._stop or IncompleteRun(
                    f"the batch {batch.id} was cancelled; run the same command again to send the "
                    "rest of its rows"
                )
            else:
                run.resubmissions[key] += 1
                again.add(key)
                yield position, Generation("", "transient", error=end.message)
        return again

    def _read_ends(
        self,
        part: BatchFile,
        batch: Any,  # noqa: ANN401 - an openai Batch
        client: "openai.OpenAI",
        limits: Mapping[str, int | None],
    ) -> dict[str, Generation | ApiError]:
        ends: dict[str, Generation | ApiError] = {}
        for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
            content = self._ask(partial(client.files.content, file_id), part=part).content
            lines = filter(bytes.strip, content.split(b"\n"))
            ends |= dict(self._read_line(line, limits) for line in lines)
        return ends

    def _read_line(
        self, line: bytes, limits: Mapping[str, int | None]
    ) -> tuple[str, Generation | ApiError]:
        """Read (custom_id, the row's end) from a batch's result; raises ServiceError."""
        try:
            reply = json.loads(line)
            key, response, error = (
                str(reply["custom_id"]),
                reply.get("response") or {},
                reply.get("error") or {},
            )
            body, status = response.get("body"), response.get("status_code")
            why = f"{error.get('code')}: {error.get('message')}"
        except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
            raise ServiceError(f"a batch's file holds no reply: {excerpt(line, 80)!r}") from None
        if status == 200:
            try:
                return key, self._service.read(json.dumps(body).encode(), limits.get(key))
            except ApiError as fault:
                return key, fault
        if isinstance(status, int):
            return key, classify_status(status, {}, json.dumps(body))
        return key, ApiError("transient", why)

    def _ask(
        self,
        call: Callable[[], Got],
        already_done: Callable[[], Got | None] = lambda: None,
        *,
        part: BatchFile | None = None,
    ) -> Got:
        where = self._folder / f"{part.name}.json" if part else None  # its rows are then sent again
        lost = f"; if the service has lost batch {part.batch_id}, remove {where}" if part else ""
        return call_with_retry(call, self._service.retry_policy, already_done, hint=lost)


@dataclass
class _BatchRun:
    """The state of one call of `generate`."""

    client: "openai.OpenAI"
    pending: list[BatchFile]  # submitted, or to be submitted now
    deferred: list[BatchFile] = field(default_factory=list)  # to be submitted after another ends
    positions: dict[str, int] = field(default_factory=dict)  # key -> position among the prompts
    resubmissions: Counter[str] = field(default_factory=Counter)  # key -> how often sent again
    progress: dict[str, str] = field(default_factory=dict)  # batch -> what was printed last
    has_capacity: bool = False  # a batch has ended and left the account's queue
    futile_tries: int = 0  # of an account's queue that took no batch at all

    def resume_deferred(self) -> None:
        """Make deferred files pending where the queue may have capacity; raises IncompleteRun."""
        if self.deferred and (self.has_capacity or not self.pending):
            self.futile_tries = 0 if self.has_capacity else self.futile_tries + 1
            if self.futile_tries > QUEUE_TRIES:
                raise IncompleteRun(
                    "the account's queue of batches has no room; all answers so far are saved; run "
                    "the same command again later, or with smaller batches (--backend-args "
                    "batch_mb=N)"
                )
            self.pending += self.deferred
            self.deferred = []
        self.has_capacity = False


def open_parts(folder: Path) -> list[BatchFile]:
    """The parts in `folder` that are not collected."""
    parts: list[BatchFile] = []
    with disk_errors("reading", folder):
        for path in sorted(folder.glob("*.json")):
            try:
                part = BatchFile(**json.loads(path.read_bytes()))
                texts = (part.name, part.tag, part.file_id, part.batch_id)
                if part.name != path.stem or not all(isinstance(text, str) for text in texts):
                    raise ValueError("not as it was written")
                for key in part.keys:
                    row_of(key)
            except (ValueError, TypeError, AttributeError, RecursionError):
                raise StorageError(
                    f"{path}: found no part of a batch; restore it from a copy"
                ) from None
            if not part.collected:
                parts.append(part)
    return parts


def remove_orphans(folder: Path) -> None:
    """Remove what an earlier start left: parts that were not uploaded, files without a part."""
    with disk_errors("removing", folder):
        for part in open_parts(folder):
            if not part.file_id:
                (folder / f"{part.name}.json").unlink()
        names = {part.name for part in open_parts(folder)}
        for path in (*folder.glob("*.jsonl"), *folder.glob(".*.tmp")):
            if path.stem not in names:
                path.unlink()


def rows_in_flight(options: EngineOptions) -> set[RowKey]:
    """Return the rows in uploaded parts that are not collected; only reads."""
    folder = Path((options.api or ApiOptions()).batch_folder)
    return {row_of(key) for part in open_parts(folder) if part.file_id for key in part.keys}


def row_of(key: str) -> RowKey:
    """(subset, level, index) of a request's key."""
    subset, level, index = key.split("/")
    return subset, level, int(index)


def claim_rows_in_flight(
    options: EngineOptions,
    is_answered: Callable[[RowKey], bool],
    selection: Mapping[str, Sequence[int]],
) -> set[RowKey]:
    """Return the rows in batches that are not recorded; for the process that holds the run's lock.

    `selection`: `<subset>_<level>` -> its rows that this start may ask. Raises UsageError for a row
    that is not one of them, or without --batch: a paid answer would be lost.
    """
    service = options.api or ApiOptions()
    folder = Path(service.batch_folder)
    remove_orphans(folder)
    out = set()
    for part in open_parts(folder):
        if not service.batch:
            raise UsageError(
                f"{folder}: batches of this run are out at the service; collect them first: the "
                "same command with --batch"
            )
        for key in part.keys:
            subset, level, index = row_of(key)
            if is_answered((subset, level, index)):
                continue
            if index not in selection.get(f"{subset}_{level}", ()):
                raise UsageError(
                    f"{folder}: a batch of this run is out with rows that are not selected now, "
                    f"such as {key}; let the command that submitted it run to its end, then select "
                    "fewer"
                )
            out.add((subset, level, index))
    return out


def _find_by_tag(client: "openai.OpenAI", tag: str) -> Any:  # noqa: ANN401
    """Find the batch of this tag; raises ValueError where the reply is no list of batches."""
    try:
        page = client.batches.list(limit=100)
        if not isinstance(page.data, list):
            raise ValueError("no list")
        return next((batch for batch in page if (batch.metadata or {}).get(TAG) == tag), None)
    except (
        AttributeError
    ):  # what the client does with JSON of another shape, and with a page of HTML
        raise ValueError("no list") from None


def _validated(call: Callable[..., Any], *names: str, **asked: Any) -> Callable[[], Any]:  # noqa: ANN401
    """Bind `call`; it raises ValueError where the reply has no text in one of `names`."""

    def checked() -> Any:  # noqa: ANN401
        got = call(**asked)
        if not all(isinstance(getattr(got, name, None), str) for name in names):
            raise ValueError("no such reply")
        return got

    return checked


def _log_progress(batch: Any, printed: dict[str, str]) -> None:  # noqa: ANN401
    """Print a batch's progress where it is new."""
    counts = batch.request_counts
    news = f"batch {batch.id}: {batch.status}" + (
        f", {counts.completed} of {counts.total} rows" if counts else ""
    )
    if printed.get(batch.id) != news:
        printed[batch.id] = news
        log.info(news)

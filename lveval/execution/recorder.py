"""What becomes of results: appended, paid for, shown, and a run that cannot succeed is ended.

failures = Recorder(store, files, cost).record(results)
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from lveval.common.errors import IncompleteRun, UsageError
from lveval.common.logs import log
from lveval.common.redaction import redacted
from lveval.data.selection import SelectedFile
from lveval.execution.cost import CostTracker
from lveval.execution.progress import Progress
from lveval.execution.tasks import Attempt, Task, TaskResult
from lveval.runs.store import RunStore

# Where so many rows fail before any is answered, the rest would fail too: the model or its settings
# are at fault.
MAX_FAILURES_BEFORE_FIRST_ANSWER = 20


class Recorder:
    """Takes the results of one start of a run, in the coordinating process."""

    def __init__(
        self,
        store: RunStore,
        files: Sequence[SelectedFile],
        cost: CostTracker,
        finished: Callable[[str, str], object] = lambda subset, level: None,
        *,
        alike: bool = False,
    ) -> None:
        """Begin the bar and export the files that are complete; `finished` is called with each.

        `alike` is Progress's.
        """
        self._store = store
        self._files = files
        self._cost = cost
        self._finished = finished  # called with each file that has all its answers
        self._missing = {file.name: len(file.missing(store.answered(*file.key))) for file in files}
        self._failures: Counter[str] = Counter()  # cause -> rows
        self._messages: dict[str, str] = {}  # a failure's message without its numbers -> with them
        self._repeated = 0
        self._devices: set[str] = set()  # that computed an answer since the start
        self._progress = Progress(files, self._missing, cost, alike=alike)
        for file in files:
            if not self._missing[file.name] and store.export_predictions(*file.key):
                finished(*file.key)

    def record(self, results: Iterable[TaskResult]) -> Counter[str]:
        """Record every result; return the failed rows by cause.

        Raises IncompleteRun, or UsageError, where no row gets an answer.
        """
        with self._progress:
            for result in results:
                self._record_answers(result)
                for attempt in result.attempts:
                    self._record_failure(result.task, attempt)
                self._show_progress()
                if self._failures.total() >= MAX_FAILURES_BEFORE_FIRST_ANSWER:
                    self._end_hopeless_run()
        self._end_hopeless_run()
        return self._failures

    def _record_answers(self, result: TaskResult) -> None:
        if result.effective:
            self._store.record_resolved(dict(result.effective))
            log.debug("settings of the loaded engine: %s", dict(result.effective))
        self._note_devices(result)
        task, name = result.task, result.task.file_name
        rows = tokens = 0
        for record in result.records:
            if self._store.append(record, result.times.get(record["index"])):
                self._cost.charge(record)
                self._missing[name] -= 1
                tokens += record["prompt_tokens"]
                rows += 1
        self._progress.add(rows, tokens, result.generated_tokens)
        if result.records and not self._missing[name]:
            if self._store.export_predictions(task.subset, task.level):
                self._finished(task.subset, task.level)
            rows = len(self._store.answered(task.subset, task.level))
            log.info("finished %s: %d rows", name, rows)

    def _note_devices(self, result: TaskResult) -> None:
        """Log each kind of device once: it decides no more than its place in the identity says."""
        found = {str(line["device"]) for line in result.times.values() if "device" in line}
        for device in sorted(found - self._devices):
            self._store.log({"event": "device", "device": device})
        self._devices |= found

    def _record_failure(self, task: Task, attempt: Attempt) -> None:
        where = task.subset, task.level, attempt.index
        message = redacted(attempt.message)  # an engine of the user's own may say anything
        self._store.record_failure(*where, attempt.cause, message)
        if attempt.cause == "transient":  # it is being repeated
            self._repeated += 1
            return
        self._failures[attempt.cause] += 1
        self._messages[re.sub(r"\d+", "N", f"{attempt.cause}: {message}")] = message
        self._cost.release(*where)
        row = f"{task.file_name} row {attempt.index}"
        log.warning("no answer: %s: %s: %s", row, attempt.cause, message)

    def _show_progress(self) -> None:
        money = f", {self._cost.cost:,.2f} USD" if self._cost.cost else ""
        repeated = f", {self._repeated} tries repeated" if self._repeated else ""
        self._progress.show(money + repeated)

    def _end_hopeless_run(self) -> None:
        failed = self._failures.total()
        if not failed or any(self._store.answered(*file.key) for file in self._files):
            return
        message, *others = self._messages.values()
        ours = self._failures.keys() <= {"error", "invalid"} and "out of memory" not in message
        if failed > 1 and ours and not others:
            raise UsageError(
                f"none of the {failed} rows that were tried has an answer, each for the same "
                f"reason: {message}; the model or its settings are at fault"
            )
        if failed >= MAX_FAILURES_BEFORE_FIRST_ANSWER:
            cause, number = self._failures.most_common(1)[0]
            raise IncompleteRun(
                f"the first {failed} rows all failed ({cause}: {number}) and none was ever "
                "answered; the causes are in attempts.jsonl; mend it and run the same command again"
            )

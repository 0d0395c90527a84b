"""Look whether the files of a run are whole, without scoring it anew; the run is only read.

    lveval verify outputs/chatglm3
    lveval verify outputs/chatglm3 --data-path my_data

Every fault is a line that names the file, what is wrong and what to do; the last line counts.
"""

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path

from lveval import evaluation as scoring
from lveval import user_tables
from lveval.analysis.contexts import read_contexts
from lveval.common import logs
from lveval.common.command_line import Command
from lveval.common.errors import ExitCode, LVEvalError, UsageError
from lveval.common.levels import file_name
from lveval.common.logs import log
from lveval.common.processes import collector_paused
from lveval.common.text import one_line, shown, storable
from lveval.data import dataset, sources
from lveval.results import HEADLINE, PROTOCOLS, Evaluation
from lveval.runs import folder as runs
from lveval.runs import times
from lveval.runs.record import JsonObject, LocatedRecord, index_of, parse_attempt, parse_record

MOST = 60  # characters of a line that is not as expected

ANSWER = "run prediction.py again with the same arguments"
SCORE = "run evaluation.py again"

META = "results_meta.json"

FINGERPRINT = re.compile(r"sha256:[0-9a-f]{64}")


class Verifier:
    """Goes through a run's folder and collects its faults."""

    def __init__(self, folder: Path, data_path: Path | None = None) -> None:
        self._folder = folder
        self._data_path = data_path
        self._manifest: JsonObject = {}
        self.files: set[Path] = set()  # that were looked at
        self.damages: list[str] = []
        self.gaps: list[str] = []  # what only another start of the run is needed for

    def verify(self) -> ExitCode:
        """Look at every file of the run; the exit code that the faults come to.

        Raises UsageError where the folder holds no run, DataError where `data_path` lacks its data.
        """
        from tqdm import tqdm

        if not self._folder.is_dir():
            raise UsageError(f"{self._folder}: no such folder; expected that of a run")
        with self._faults():
            self._manifest = runs.read_manifest(self._folder) or {}
        self._look_at("run.json")
        keys = runs.list_files(self._folder, self._manifest)
        if not keys and not self.damages:
            raise UsageError(
                f"{self._folder}: found neither run.json nor a file of predictions; expected the "
                "folder of a run"
            )
        for key in keys:
            with self._faults():
                self._verify_file(*key)
        readable = not self.damages
        for verify_others in (self._verify_attempts, self._verify_times):
            with self._faults():
                verify_others()
        for path in sorted(self._folder.rglob(".*.tmp")):
            self._damage(f"{path}: left by a process that was killed in mid-write; remove it")
        for key in tqdm(keys, desc="looking at the data", unit="file", delay=2, leave=False):
            self._verify_data(*key)
        if not readable:
            log.info("results are not compared with rows that are in doubt")
            return ExitCode.STORAGE
        with self._faults():
            self._verify_results()
        if self.damages:
            return ExitCode.STORAGE
        return ExitCode.INCOMPLETE if self.gaps else ExitCode.COMPLETE

    def _damage(self, message: str) -> None:
        self.damages.append(message)

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """A block whose error is a fault of the run."""
        try:
            yield
        except LVEvalError as error:
            self._damage(error.message)

    def _look_at(self, name: str) -> Path | None:
        """The path of a file that is there, which counts as looked at."""
        path = self._folder / name
        if not path.is_file():
            return None
        self.files.add(path)
        return path

    # --- rows, and what is derived from them ----------------------------------------------------

    def _verify_file(self, subset: str, level: str) -> None:
        name = file_name(subset, level)
        derived = self._look_at(f"{name}.jsonl")
        before = len(self.damages)
        selected = name in self._manifest.get("selection", {})
        if self._manifest and not selected:
            self._damage(
                f"{self._folder / name}.jsonl: run.json selects no row of it; move the file "
                "elsewhere, or restore run.json"
            )
            return
        wanted = runs.rows_to_answer(self._manifest, name) if selected else set()
        rows = self._verify_rows(name, wanted)
        if len(self.damages) > before:  # with rows in doubt all else would be
            return
        if derived:
            if rows is not None:
                self._verify_derived(derived, rows, wanted)
            elif any(self._folder.glob("rows/*.jsonl")):
                self._damage(
                    f"{self._folder / 'rows' / name}.jsonl: is missing, and {derived.name} was "
                    "derived from it; restore it from a copy"
                )
            else:
                rows = self._verify_alone(derived, name, wanted)
        # Of a part the selection has rows that other parts answer.
        if len(self.damages) > before or self._manifest.get("part"):
            return
        path = self._folder / f"{name}.jsonl"
        if missing := sorted(wanted.difference(rows or ())):
            self.gaps.append(f"{path}: {_named(missing)} of {len(wanted)} have no answer; {ANSWER}")
        elif wanted and not derived:
            self.gaps.append(f"{path}: is missing, and all its rows are there; {runs.ANEW}")

    def _verify_rows(self, name: str, wanted: Set[int]) -> dict[int, bytes] | None:
        """Index -> line as it is derived; None where there is no such file in rows/."""
        path = self._look_at(f"rows/{name}.jsonl")
        if path is None:
            return None
        rows: dict[int, bytes] = {}
        places: dict[int, str] = {}
        for checked, where in runs.read_lines(path):
            with self._faults():
                line, item = runs.parse_row(checked, where, name)
                self._note_index(item, name, wanted, places)
                rows.setdefault(index_of(item), line)
        self._verify_end(path, f"{ANSWER}, its row is answered again")
        return rows

    def _note_index(
        self, item: LocatedRecord, name: str, wanted: Set[int], places: dict[int, str]
    ) -> None:
        """Look whether a record may be there, as far as its index tells."""
        index, where = index_of(item), item.where
        if index in places:
            self._damage(
                f"{where}: row {index} is at {places[index]}, too, which counts; remove this line"
            )
        places.setdefault(index, where)
        if not self._manifest:
            return
        available = self._manifest["rows"].get(name)
        if index not in wanted or (available is not None and index >= available):
            self._damage(
                f"{where}: run.json does not select row {index}, of {available} rows; restore "
                "run.json, or remove the line"
            )

    def _verify_end(self, path: Path, then: str) -> None:
        """A file that is appended to ends with a line break, unless a write was torn."""
        if (content := path.read_bytes()) and not content.endswith(b"\n"):
            number = content.count(b"\n") + 1
            self._damage(f"{path}:{number}: the last line is torn; {then}")

    def _verify_derived(self, path: Path, rows: Mapping[int, bytes], wanted: Set[int]) -> None:
        """Each line is the row's, in the order of indexes."""
        seen, last, before = set[int](), -1, len(self.damages)
        for line, where in runs.read_lines(path, keep_torn=True):
            with self._faults():
                item = LocatedRecord(parse_record(line, where), where)
                index = index_of(item)
                if rows.get(index) != line or index <= last:
                    self._damage(f"{where}: is not as rows/{path.name} has it; {runs.ANEW}")
                last = max(last, index)
                seen.add(index)
        self._verify_end(path, runs.ANEW)
        lacking = sorted(rows.keys() - seen)
        # While rows are missing, an export of an earlier, smaller selection may stand.
        if lacking and wanted <= rows.keys() and len(self.damages) == before:
            self.gaps.append(f"{path}: lacks {_named(lacking)}; {runs.ANEW}")

    def _verify_alone(self, path: Path, name: str, wanted: Set[int]) -> dict[int, bytes]:
        """A file without rows/: that of the published harness, whose rows have no index, or of
        answers that were copied.
        """
        rows: dict[int, bytes] = {}
        places: dict[int, str] = {}
        for number, (line, where) in enumerate(runs.read_lines(path, keep_torn=True)):
            with self._faults():
                item = LocatedRecord({"index": number, **parse_record(line, where)}, where)
                self._note_index(item, name, wanted, places)
                rows[index_of(item)] = line
        return rows

    # --- what is beside them --------------------------------------------------------------------

    def _verify_attempts(self) -> None:
        if path := self._look_at("attempts.jsonl"):
            for line, where in runs.read_lines(path):
                with self._faults():
                    parse_attempt(line, where)
            self._verify_end(path, f"{ANSWER}, which cuts it")

    def _verify_times(self) -> None:
        if path := self._look_at(times.FILE):
            for line, where in runs.read_lines(path, keep_torn=True):
                with self._faults():
                    found = parse_record(line, where)
                    if not {"dataset", "level", "index"} <= found.keys():
                        self._damage(f"{where}: found no times of a row; remove the line")

    def _verify_data(self, subset: str, level: str) -> None:
        """The data of a file, where they are here, have the content that the run recorded."""
        name = file_name(subset, level)
        recorded_of = self._manifest.get("identity", {}).get("data")
        if name not in self._manifest.get("selection", {}) or not isinstance(recorded_of, dict):
            return
        recorded = recorded_of.get(name)
        where = f"{self._folder / 'run.json'}: identity.data.{name}"
        if not isinstance(recorded, str) or not FINGERPRINT.fullmatch(recorded):
            self._damage(
                f"{where}: found {shown(recorded)}; expected sha256: and 64 digits; restore it"
            )
            return
        source = self._source(subset, f"{name}.jsonl")
        with self._faults():
            if source:
                self.files.add(source.path)
                found, _ = sources.fingerprint_of(source)
                if found != recorded:
                    self._damage(
                        f"{source.origin}: found the content {found}; expected {recorded}, which "
                        "the run was asked; restore the file, or name its folder by --data-path"
                    )
            if copy := dataset.damaged_copy(subset, recorded):
                self._damage(f"{copy}: the cached copy of {name}.jsonl is damaged; remove it")
            copied = dataset.cached_file(subset, level, recorded)
            rows = self._manifest["rows"].get(name)
            if copied and len(copied) != rows:
                self._damage(
                    f"{self._folder / 'run.json'}: rows.{name} is {rows}; expected {len(copied)}, "
                    "the rows of the data; restore run.json"
                )

    def _source(self, subset: str, name: str) -> sources.DataSource | None:
        """Where the data are: in --data-path, or in the folder that the run was last started with,
        if it is still there.
        """
        if self._data_path is not None:
            return sources.find_source(subset, name, self._data_path)
        for entry in reversed(self._manifest["log"]):
            words = entry.get("argv") if isinstance(entry, dict) else None
            words = words if isinstance(words, list) else []
            for word, following in zip_longest(words, words[1:]):
                option, _, value = str(word).partition("=")
                if option == "--data-path" and Path(given := value or str(following)).is_dir():
                    try:
                        return sources.find_source(subset, name, Path(given))
                    except LVEvalError:  # the data have gone; nobody named them now
                        return None
        return None

    # --- results --------------------------------------------------------------------------------

    def _verify_results(self) -> None:
        """The result files are, byte for byte, what evaluation.py would write now."""
        evaluation = scoring.evaluate(self._folder, self._data_path)
        if self._look_at("comparison.json") and scoring.has_stale_comparison(evaluation):
            self._damage(
                f"{self._folder / 'comparison.json'}: is of other answers than these, or damaged; "
                f"{SCORE} with --compare"
            )
        present = {name for name in scoring.RESULT_FILES if self._look_at(name)}
        if evaluation.unfinished:
            for name in sorted(present):
                self._damage(f"{self._folder / name}: is from before rows were missing; {SCORE}")
        elif present and META not in present and not self._manifest:
            self._verify_published(evaluation)
            return
        partial = any(self._folder.glob("results*.partial.*"))
        if not evaluation.rows or not (partial if evaluation.unfinished else present):
            return
        if self._data_path:
            evaluation.depths = read_contexts(
                evaluation, self._data_path, with_passages=False
            ).depths
        for name, text in scoring.result_files(evaluation, scoring.analyze(evaluation)).items():
            path = self._look_at(name)
            if path is None:
                self._damage(f"{self._folder / name}: is missing beside other results; {SCORE}")
            elif difference := _difference(path.read_bytes(), storable(text).encode()):
                self._damage(f"{path}{difference}; {SCORE}")

    def _verify_published(self, evaluation: Evaluation) -> None:
        """Of results that another harness wrote the scores count, not the spelling."""
        path = self._folder / f"{PROTOCOLS[HEADLINE].stem}.json"
        if path.exists():
            scores = evaluation.scores(HEADLINE)
            expected = {file_name(*key): score for key, score in scores.items()}
            found = parse_record(path.read_bytes(), str(path))
            for name in expected.keys() | found.keys():
                if found.get(name) != expected.get(name):
                    self._damage(
                        f"{path}: {name} is {shown(found.get(name))}; its rows score "
                        f"{expected.get(name)}; {SCORE}"
                    )


def _named(rows: Sequence[int]) -> str:
    """Name the first rows of many."""
    return f"{len(rows)} rows ({runs.first_rows(rows)})"


def _difference(found: bytes, expected: bytes) -> str:
    """Say where a file differs from what it should be; blank where it does not."""
    if found == expected:
        return ""
    lines = zip_longest(found.split(b"\n"), expected.split(b"\n"), fillvalue=b"nothing")
    number, (one, other) = next(
        (number, pair) for number, pair in enumerate(lines, 1) if pair[0] != pair[1]
    )
    said = f'found "{_clipped(one)}"; expected "{_clipped(other)}", as the rows score now'
    return f":{number}: {said}"


def _clipped(line: bytes) -> str:
    text = line.decode(errors="replace").strip()
    return text if len(text) <= MOST else f"{text[:MOST]}…"


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = Command(
        description="Look whether the files of a run are whole: rows, what is derived from them, "
        "run.json, results, data. The run is only read.",
        epilog="exit codes: 0 whole, 2 a wrong option or no run, 3 rows are missing and nothing is "
        "damaged, 6 files are damaged or not of the rows as they are",
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="the run's folder")
    data = "a folder with the run's data (default: that of the run's last start, and cached copies)"
    add("--data-path", type=Path, metavar="FOLDER", help=data)
    parser.add_loudness()
    return parser.parse_args(user_tables.taken(argv))


@collector_paused()
def main(argv: Sequence[str] | None = None) -> ExitCode:
    """Verify one folder: a line a fault, and their number last."""
    arguments = parse_arguments(argv)
    scoring.one_thread()
    logs.configure(verbose=arguments.verbose, quiet=arguments.quiet)
    verifier = Verifier(arguments.run, arguments.data_path)
    code = verifier.verify()
    for fault in (*verifier.damages, *verifier.gaps):
        print(one_line(fault))
    faults = len(verifier.damages) + len(verifier.gaps)
    print(f"{len(verifier.files)} files, {faults} faults")
    return code

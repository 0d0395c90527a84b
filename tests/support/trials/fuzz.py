"""Damaged and hostile inputs of every kind, thousands of each, through the doors that files and
replies come in by.

    fuzz(Path("failed"), "rows", inputs=10_000, seed=1)

An input is accepted, or refused in a sentence (LVEvalError, ApiError); all else is counted. What
failed is kept in the given folder, and its path is said.
"""

import gzip
import hashlib
import io
import json
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, cast

from conftest import ROOT, row, write_data

from lveval import config, evaluation, prediction, user_tables
from lveval.backends.base import ApiOptions, EngineOptions
from lveval.backends.openai import batch
from lveval.backends.openai.faults import ApiError, classify_status
from lveval.backends.openai.responses import ReplyReader
from lveval.common.errors import LVEvalError
from lveval.common.jsonl import encode
from lveval.data import dataset, sources
from lveval.data.own_subsets import read_own_subsets
from lveval.exchange import importing
from lveval.exchange.foreign_answers import FORMATS
from lveval.execution.cost import CostTracker
from lveval.options import RunOptions
from lveval.runs import times
from lveval.runs.record import Prediction
from support.trials.doors import CHINESE, ENGLISH, NAMES, RunDoors, Step, Trial
from support.trials.mutations import mutated
from support.trials.tally import SLOW_SECONDS, Tally

LONGEST_MESSAGE = 3000  # characters of a refusal
STUCK_SECONDS = 30  # an input that takes longer is given up


def fuzz(folder: Path, kind: str, inputs: int, seed: int) -> Tally:
    """Try so many inputs of a kind; the same ones with the same seed."""
    folder.mkdir(parents=True, exist_ok=True)
    chance, tally = random.Random(f"{kind} {seed}"), Tally()
    with ExitStack() as stack:
        in_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        place = stack.enter_context(tempfile.TemporaryDirectory("lveval-fuzz", dir=in_memory))
        stack.enter_context(_surroundings(Path(place)))
        trial = TRIALS[kind](Path(place))
        for name, content in trial.sound.items():  # imports and caches are not what is timed
            for step in trial.steps:
                with suppress(ApiError):  # what a service may say, too
                    assert not step.look(name, content), f"{kind}: {name} is not sound"
        names, others = sorted(trial.sound), [*trial.sound.values()]
        for number in range(inputs):
            name = chance.choice(names)
            content = mutated(chance, trial.sound[name], others)
            with trial.placed(name, content):
                steps = [step for step in trial.steps if number % step.every == 0]
                faults = [_fault_of(step.look, name, content) for step in steps]
            tally.points += 1
            for fault in filter(None, faults):
                count, _, why = fault.partition("\n")
                setattr(tally, count, getattr(tally, count) + 1)
                kept = folder / f"{kind}-{seed}-{number}-{count}-{Path(name).name}"
                kept.write_bytes(content)
                print(f"{kind}: {count}: {kept}: {why}", file=sys.stderr)
    return tally


class _StuckError(BaseException):
    """An input that is given up; nothing that the harness catches."""


def _give_up(number: int, frame: FrameType | None) -> None:
    raise _StuckError


@contextmanager
def _surroundings(place: Path) -> Iterator[None]:
    """A cache of its own, nothing said, and nothing that lasts for ever."""
    before, silenced = os.environ.get("LVEVAL_CACHE"), logging.root.manager.disable
    logging.disable()
    alarm = signal.signal(signal.SIGALRM, _give_up)
    os.environ["LVEVAL_CACHE"] = str(place / "cache")
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, alarm)
        logging.disable(silenced)
        os.environ.pop("LVEVAL_CACHE")
        if before is not None:
            os.environ["LVEVAL_CACHE"] = before
        dataset._datasets.clear()


def _fault_of(look: Callable[[str, bytes], bool], name: str, content: bytes) -> str:
    """What went wrong with an input: a field of Tally, and why in a second line; or nothing."""
    fault, began = "", time.process_time()
    signal.alarm(STUCK_SECONDS)
    try:
        if look(name, content):
            fault = "altered\nother content was taken"
    except (LVEvalError, ApiError) as error:
        if not 0 < len(error.message) <= LONGEST_MESSAGE:
            fault = f"uncaught\na message of {len(error.message)} characters"
    except _StuckError:
        return "hangs\ngiven up"
    except Exception as error:  # noqa: BLE001 - whatever it is, it is counted
        frames = traceback.extract_tb(error.__traceback__)[-4:]
        told = " ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)
        fault = f"uncaught\n{type(error).__name__}: {str(error)[:100]} ({told})"
    finally:
        signal.alarm(0)
    if (seconds := time.process_time() - began) > SLOW_SECONDS and not fault:
        fault = f"hangs\n{seconds:.1f} s"
    return fault


# --- Data ----------------------------------------------------------------------------------------


def _rows(subset: str, count: int = 3) -> list[dict[str, object]]:
    offsets = {"evidence": [[0, 4]], "confusing_facts": [[2, 3]]}
    extra: list[dict[str, object]] = [{}, {"offsets": offsets, "all_classes": ["x"]}, {}]
    return [row(subset, number, 8, **extra[number]) for number in range(count)]


def _file_of(name: str) -> tuple[str, str]:
    return name.partition(".")[0].removesuffix("_1k"), "1k"


def data_trial(place: Path) -> Trial:
    """JSON Lines: what is taken is what the lines say."""
    folder = place / "data"
    paths = [write_data(folder, name, _rows(_file_of(name)[0])) for name in NAMES]

    def wanted(content: bytes) -> list[Any]:
        lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
        return [json.loads(line) for line in lines if line.strip()]

    def unlike(found: Sequence[Any], content: bytes) -> bool:
        keys, rows = ("input", "context", "answers", "length"), wanted(content)
        return len(found) != len(rows) or any(
            one[key] != other[key] for one, other in zip(found, rows, strict=True) for key in keys
        )

    def parse(name: str, content: bytes) -> bool:
        subset, _ = _file_of(name)
        source = sources.find_source(subset, name, folder)
        return unlike([row for _, row in dataset.rows_of_source(source, subset) if row], content)

    def load(name: str, content: bytes) -> bool:
        dataset._datasets.clear()
        file = dataset.load_file(*_file_of(name), folder)
        return unlike([file.row(index) for index in range(len(file))], content)

    sound = {path.name: path.read_bytes() for path in paths}
    return Trial(sound, [Step(parse), Step(load, 10)], folder)


def archives_trial(place: Path) -> Trial:
    """Packed files: what is taken is what was packed."""
    folder, sound, packed = place / "data", dict[str, bytes](), dict[str, str]()
    folder.mkdir()
    for subset, method in ((CHINESE, zipfile.ZIP_DEFLATED), ("lic_mixup", zipfile.ZIP_STORED)):
        text = write_data(place, f"{subset}_1k", _rows(subset)).read_bytes()
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", method) as archive:
            archive.writestr(f"{subset}/{subset}_1k.jsonl", text)
        sound[f"{subset}.zip"] = stream.getvalue()
        packed[f"{subset}.zip"] = f"sha256:{hashlib.sha256(text).hexdigest()}"
    text = write_data(place, NAMES[0], _rows(ENGLISH)).read_bytes()
    sound[f"{NAMES[0]}.jsonl.gz"] = gzip.compress(text, mtime=0)
    packed[f"{NAMES[0]}.jsonl.gz"] = f"sha256:{hashlib.sha256(text).hexdigest()}"
    for name, content in sound.items():
        (folder / name).write_bytes(content)

    def known(name: str, content: bytes, fingerprint: str) -> bool:
        if not content.replace(sound[name], b""):  # whole archives in a row are one file
            return True
        return packed[name] == fingerprint

    def read(name: str, content: bytes) -> bool:
        subset, level = _file_of(name)
        source = sources.find_source(subset, f"{subset}_{level}.jsonl", folder)
        lines = (line for line, _ in dataset.rows_of_source(source, subset))
        return not known(name, content, f"sha256:{hashlib.sha256(b''.join(lines)).hexdigest()}")

    def load(name: str, content: bytes) -> bool:
        dataset._datasets.clear()
        return not known(name, content, dataset.load_file(*_file_of(name), folder).fingerprint)

    return Trial(sound, [Step(read), Step(load, 10)], folder)


# --- A run's files -------------------------------------------------------------------------------


def rows_trial(place: Path) -> Trial:
    """The rows, each with its checksum."""
    run = RunDoors(place)
    steps = [Step(run.evaluate), Step(run.accept, 5), Step(run.resume, 20), Step(run.verify, 50)]
    return run.trial("rows/*.jsonl", steps=steps)


def derived_trial(place: Path) -> Trial:
    """The files that are derived of the rows."""
    run = RunDoors(place)
    steps = [Step(run.evaluate), Step(run.accept, 5), Step(run.verify, 50)]
    return run.trial(*(f"{name}.jsonl" for name in NAMES), steps=steps)


def predictions_trial(place: Path) -> Trial:
    """Files of the published harness, which no checksum guards: any content may be taken."""
    run = RunDoors(place)
    for path in run.folder.iterdir():
        if path.stem not in NAMES:
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def score(name: str, content: bytes) -> bool:
        evaluation.evaluate(run.folder)
        return False

    def analyze(name: str, content: bytes) -> bool:
        found = evaluation.evaluate(run.folder)
        if found.rows:
            evaluation.result_files(found, evaluation.analyze(found))
            found.to_frame()
        return False

    steps = [Step(score), Step(analyze, 10), Step(run.page, 100), Step(run.compare, 100)]
    return run.trial("*.jsonl", steps=[*steps, Step(run.export, 100), Step(run.verify, 100)])


def manifest_trial(place: Path) -> Trial:
    """run.json, of which only its shape can be known."""
    run = RunDoors(place)

    def score(name: str, content: bytes) -> bool:
        evaluation.evaluate(run.folder)
        return False

    steps = [Step(score), Step(run.resume, 10), Step(run.verify, 50), Step(run.page, 100)]
    steps += [Step(run.compare, 100), Step(run.export, 100), Step(run.merge, 50)]
    return run.trial("run.json", steps=steps)


def results_trial(place: Path) -> Trial:
    """What evaluation.py wrote."""
    run = RunDoors(place)
    found = evaluation.evaluate(run.folder)

    def read(name: str, content: bytes) -> bool:
        evaluation.recorded_protocols(run.folder)
        evaluation.has_stale_comparison(found)
        return False

    steps = [Step(read), Step(run.verify, 50)]
    return run.trial("results*", "comparison.json", steps=steps)


def logs_trial(place: Path) -> Trial:
    """What lies beside the rows: failed attempts, times, batches that are out."""
    run = RunDoors(place)
    (run.folder / "batches").mkdir()
    part = batch.BatchFile("p1", "p1", [f"{ENGLISH}/1k/0"], file_id="f")
    (run.folder / "batches/p1.json").write_bytes(encode(vars(part)))
    api = ApiOptions(batch=True, batch_folder=str(run.folder / "batches"))
    options = EngineOptions(model_path=None, model_max_len=100, api=api)
    selection = {name: range(2) for name in NAMES}

    def read(name: str, content: bytes) -> bool:
        times.read_times(run.folder)
        batch.rows_in_flight(options)
        batch.claim_rows_in_flight(options, lambda key: False, selection)
        return False

    steps = [Step(read), Step(run.resume, 5), Step(run.verify, 50), Step(run.page, 100)]
    return run.trial("attempts.jsonl", "times.jsonl", "batches/*.json", steps=steps)


# --- What services and other tools say -----------------------------------------------------------


def replies() -> dict[str, bytes]:
    """The bodies of real services' replies, by status, service and case."""
    found = {}
    for path in sorted((ROOT / "tests/data/services").glob("*.json")):
        for case in json.loads(path.read_text(encoding="utf-8")):
            body = case["body"]
            text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
            for status in (case["status"], 200):  # some services have errors under 200, too
                found[f"{status} {path.stem} {case['name']}"] = text.encode()
    return found


def replies_trial(place: Path) -> Trial:
    """Bodies of replies, to the point where the answer is a line of the run."""
    cost = CostTracker(1.0, 2.0, 5.0, None, 100, {})
    reader = ReplyReader(stop=("\n\n",), refusal_pattern="sorry", count=len)

    def read(name: str, content: bytes) -> bool:
        status = int(name[:3])
        headers = {"retry-after": content[:40].decode("latin-1")}
        if status != 200:
            raise classify_status(status, headers, content)
        answer, _ = reader.read(content, 64)
        made = {"pred": answer.text, "finish_reason": answer.finish_reason, "usage": answer.usage}
        line = encode(made)
        asked = {"dataset": ENGLISH, "level": "1k", "index": 0, "status": answer.status}
        tokens = {"prompt_tokens": 9, "prompt_tokens_full": 9}
        before = cost.cost
        cost.charge(cast(Prediction, asked | tokens | made))
        if cost.cost < before:
            return True  # what an answer costs was taken back
        return bool(json.loads(line)["pred"] != answer.text) or b"\n" in line

    return Trial(replies(), [Step(read)])


def imports_trial(place: Path) -> Trial:
    """Answers in the files of other tools."""
    folder, data = place / "answers", place / "data"
    shutil.copytree(ROOT / "tests/data/exchange", folder, ignore=shutil.ignore_patterns("*.md"))
    for name, count in zip(NAMES, (4, 3), strict=True):
        subset, _ = _file_of(name)
        write_data(data, name, [row(subset, number, 30) for number in range(count)])
    csv = "index,pred,input\n0,1800,\n1,1801,\n2,1802,\n"
    (folder / f"{NAMES[1]}.csv").write_text(csv)
    sound = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}

    def files_of(name: str) -> tuple[str, list[Path]]:
        form = {".csv": "csv", ".json": "opencompass"}.get(Path(name).suffix, "lm-eval")
        if form == "opencompass" and ENGLISH in name:
            return form, sorted(folder.glob(f"*{ENGLISH}*.json"))
        return form, [folder / name]

    def join(name: str, content: bytes) -> bool:
        form, paths = files_of(name)
        joined = importing.join(FORMATS[form](paths), data)
        list(joined.missing)
        return False

    def load(name: str, content: bytes) -> bool:
        form, paths = files_of(name)
        shutil.rmtree(place / "imported", ignore_errors=True)
        importing.import_answers(form, paths, data, place / "imported")
        evaluation.evaluate(place / "imported")
        return False

    return Trial(sound, [Step(join), Step(load, 20)], folder)


# --- What users write ----------------------------------------------------------------------------

OWN = b"""[my_qa]
language = "en"
metric = "qa_f1_score"
max_new_tokens = 64
prompt = \"\"\"Read.

{context}

Question: {input}\"\"\"
group = "single-hop QA"

[mine_zh]
language = "zh"
metric = "rouge_zh_score"
metric_recall = "keyword_recall_zh_score"
max_new_tokens = 32
prompt = "{context}{input}"
"""


def own_subsets_trial(place: Path) -> Trial:
    """subset.toml."""

    def read(name: str, content: bytes) -> bool:
        for subset in read_own_subsets(place).values():
            encode(subset.as_data())
        return False

    return Trial({"subset.toml": OWN}, [Step(read)], place)


CONFIG = b"""from lveval import metrics
DATASET_SELECTED = ["hotpotwikiqa_mixup", "cmrc_mixup"]
DATASET_LENGTH_LEVEL = ["1k"]
DATASET_LANGUAGE = {"hotpotwikiqa_mixup": "en", "cmrc_mixup": "zh"}
DATASET_ROWS = {"hotpotwikiqa_mixup": 124, "cmrc_mixup": 200}
DATASET_MAXGEN = {"hotpotwikiqa_mixup": 64, "cmrc_mixup": 64}
DATASET_METRIC = {"hotpotwikiqa_mixup": metrics.qa_f1_score, "cmrc_mixup": metrics.qa_f1_zh_score}
DATASET_PROMPT = {"hotpotwikiqa_mixup": "{context} {input}", "cmrc_mixup": "{context} {input}"}
"""


def tables_trial(place: Path) -> Trial:
    """Tables of the user's own: --config, and the templates of --prompts."""
    run, tables = RunDoors(place), place / "tables"
    tables.mkdir()
    templates = dict.fromkeys((ENGLISH, CHINESE), "{context} {input}")
    words = ("--backend", "echo", "--model-name", "dry", "--data-path", str(place / "data"))
    selection = ("--datasets", ENGLISH, CHINESE)
    sound = {
        "config.py": CONFIG,
        "prompts.json": encode(templates),
        "prompts.py": b"DATASET_PROMPT = " + encode(templates) + b"\n",
    }

    def read(name: str, content: bytes) -> bool:
        with user_tables.restored():
            prompts: tuple[str, ...] = ("--prompts", str(tables / name), *selection)
            if name == "config.py":
                user_tables.choose("--config", str(tables / name))
                prompts = ("--datasets", *config.DATASET_SELECTED)
            options = RunOptions.parse([*words, *prompts])
            found = prediction.load_prompt_set(options)
            options.selected_files(found.by_subset)
            if name == "config.py":
                evaluation.evaluate(run.folder)
        return False

    for name, content in sound.items():
        (tables / name).write_bytes(content)
    return Trial(sound, [Step(read)], tables)


TRIALS: dict[str, Callable[[Path], Trial]] = {
    "data": data_trial,
    "archives": archives_trial,
    "rows": rows_trial,
    "derived": derived_trial,
    "predictions": predictions_trial,
    "run.json": manifest_trial,
    "results": results_trial,
    "logs": logs_trial,
    "replies": replies_trial,
    "imports": imports_trial,
    "subset.toml": own_subsets_trial,
    "tables": tables_trial,
}
KINDS: tuple[str, ...] = tuple(TRIALS)

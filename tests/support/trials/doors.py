"""The doors that files come in by: what reads a run, and what a trial of them is made of.

run = RunDoors(tmp_path); run.trial("run.json", steps=[Step(run.evaluate)])
"""

import io
import itertools
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lveval import cli, evaluation
from lveval.common.errors import ExitCode
from lveval.report import html
from lveval.runs import folder as runs
from lveval.runs.merge import merge_parts
from lveval.runs.store import RunStore
from lveval.verify import Verifier
from support.trials.damage import scored_run

ENGLISH, CHINESE = "hotpotwikiqa_mixup", "cmrc_mixup"
NAMES = (f"{ENGLISH}_1k", f"{CHINESE}_1k")


class Step(NamedTuple):
    """A door: takes (name, content), which lies there by now."""

    look: Callable[[str, bytes], bool]  # whether it took other content than what was there before
    every: int = 1  # a slow one is tried with each so-many-th input only


@dataclass(frozen=True)
class Trial:
    """One kind of input: sound ones, where they lie, and what reads them."""

    sound: Mapping[str, bytes]
    steps: Sequence[Step]
    folder: Path | None = None  # inputs are put there under their names

    @contextmanager
    def placed(self, name: str, content: bytes) -> Iterator[None]:
        """Have an input in its place, and the sound one again afterwards."""
        if self.folder is None:
            yield
            return
        (self.folder / name).write_bytes(content)
        try:
            yield
        finally:
            (self.folder / name).write_bytes(self.sound[name])


class RunDoors:
    """A small scored run, and what reads its files."""

    def __init__(self, place: Path) -> None:
        self.folder = scored_run(place, 2, {"1k": 12})
        self.before: Mapping[str, bytes] = {}  # what stood in the files of the trial
        attempt = {"time": "2026-01-01T00:00:00Z", "dataset": ENGLISH, "level": "1k", "index": 1}
        attempt |= {"cause": "invalid", "message": "logits are not finite"}
        (self.folder / "attempts.jsonl").write_text(json.dumps(attempt) + "\n")
        timed = {"dataset": ENGLISH, "level": "1k", "index": 0, "prompt_tokens": 20}
        timed |= {"new_tokens": 3, "decode_seconds": 0.2, "prefill_seconds": 0.1, "peak_mb": 10}
        (self.folder / "times.jsonl").write_text(json.dumps(timed) + "\n")
        self.manifest = runs.read_manifest(self.folder) or {}
        # What runs with more options have, too.
        given = {"sample": {"rows": 2, "seed": 3}, "thinking_budget": 5}
        self.manifest["identity"] |= {"given": given, "subsets": {}, "effective": {"dtype": "x"}}
        self.manifest |= {
            "sampled": {NAMES[0]: [0, 1]},
            "left_out": {NAMES[1]: [7]},
            "part": [1, 1],
        }
        self.manifest |= {"unverified": [NAMES[0]]}
        self.saved = json.dumps(self.manifest, indent=2).encode()
        (self.folder / "run.json").write_bytes(self.saved)
        found = evaluation.evaluate(self.folder)
        evaluation.write_results(found, evaluation.analyze(found))
        text = evaluation.as_json({"a": evaluation.signatures(found), "compared": {}})
        (self.folder / "comparison.json").write_text(text)
        self.recorded = {row.key: row.record for row in found.rows}
        self.other = shutil.copytree(self.folder, self.folder.with_name("other"))

    def sound(self, *patterns: str) -> dict[str, bytes]:
        """The contents of files below the run's folder."""
        paths = itertools.chain.from_iterable(map(self.folder.glob, patterns))
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in sorted(paths)}

    def evaluate(self, name: str, content: bytes) -> bool:
        """Score it; an answer that was taken must be one that was recorded."""
        rows = evaluation.evaluate(self.folder).rows
        return any(self.recorded.get(row.key) != row.record for row in rows)

    def accept(self, name: str, content: bytes) -> bool:
        """Score it as it stands, whatever was edited."""
        evaluation.evaluate(self.folder, accept_edited=True)
        return False

    def resume(self, name: str, content: bytes) -> bool:
        """Open it as a run that goes on, which leaves run.json as it was."""
        found = self.manifest
        try:
            with RunStore.open(
                self.folder, found["identity"], found["selection"], found["rows"]
            ) as store:
                store.failed()
                return any(
                    self.recorded.get((str(r["dataset"]), str(r["level"]), r["index"])) != r
                    for r in store.records()
                )
        finally:
            (self.folder / "run.json").write_bytes(self.saved)
            for path in self.folder.rglob("*.torn"):
                path.unlink()

    def verify(self, name: str, content: bytes) -> bool:
        """Look whether it is whole: no other content than before is."""
        verifier = Verifier(self.folder)
        code = verifier.verify()
        kinds = ("rows/", *NAMES, "results")
        checked = name.startswith(kinds) and (self.folder / "rows").exists()
        held = checked and content != self.before[name]
        return held and code == ExitCode.COMPLETE

    def page(self, name: str, content: bytes) -> bool:
        """Make its page."""
        html.render(cli.report_of_folder(self.folder))
        return False

    def compare(self, name: str, content: bytes) -> bool:
        """Compare it with the run as it was."""
        html.render(cli.report_of_folder(self.other, [self.folder]))
        return False

    def export(self, name: str, content: bytes) -> bool:
        """Write it for other tools."""
        for form in ("lm-eval", "every-eval-ever"):
            output = ("--output", str(self.folder.parent / "exported"))
            model = ("--model-id", "org/dry")
            with redirect_stdout(io.StringIO()):
                cli.export([str(self.folder), "--format", form, *output, "--allow-partial", *model])
        return False

    def merge(self, name: str, content: bytes) -> bool:
        """Join it, as the only part of a run."""
        whole, part = (self.folder.with_name(f"whole{end}") for end in ("", ".part1of1"))
        shutil.copytree(self.folder, part)
        try:
            merge_parts(whole)
        finally:
            shutil.rmtree(part)
            shutil.rmtree(whole, ignore_errors=True)
        return False

    def trial(self, *patterns: str, steps: Sequence[Step]) -> Trial:
        """The trial of the files of these patterns."""
        self.before = self.sound(*patterns)
        return Trial(self.before, steps, self.folder)

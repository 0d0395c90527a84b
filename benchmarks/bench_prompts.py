"""What making a prompt costs, against the published way: tokenise all, slice, decode.

    python benchmarks/bench_prompts.py

The embedded model's tokenizer, both languages, all five levels; best of three, both ways in turn;
of the memory, the peak above what was resident before. Then the overlap: rows answered by the echo
backend with a delay, against preparing and answering one after the other.
"""

import argparse
import itertools
import re
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from figures import ROOT, construct, report, report_ratio
from transformers import AutoTokenizer

from lveval import config, utils
from lveval.backends.base import EngineOptions, Tokenizer
from lveval.backends.echo import EchoTokenizer
from lveval.backends.hf_models import HFTokenizer
from lveval.data import dataset, rows
from lveval.execution import dispatch
from lveval.execution.pool import worker_pool
from lveval.execution.tasks import Job, Task

LIMIT = 15500
LEVELS = ("16k", "32k", "64k", "128k", "256k")
SUBSETS = ("hotpotwikiqa_mixup", "cmrc_mixup")
OVERLAP_ROWS = 12

Result = TypeVar("Result")


def reference(tokenizer: HFTokenizer, text: str) -> str:
    """The published way: all token ids, both halves, decoded."""
    ids = tokenizer.raw(text)["input_ids"]
    if len(ids) <= LIMIT:
        return text
    halves = ids[: LIMIT // 2], ids[-(LIMIT // 2) :]
    return "".join(tokenizer.raw.decode(half, skip_special_tokens=True) for half in halves)


def build(subset: str, row: rows.Row, tokenizer: Tokenizer, chat_format: str) -> str:
    """The whole preparation of a row; its prompt's text."""
    template = config.DATASET_PROMPT[subset]
    return utils.build_prompt(
        row, template, 64, tokenizer, LIMIT, chat_format, "auto", False
    ).prompt.text


def memory_mb(name: str) -> float:
    """VmRSS, what is resident now, or VmHWM, the most there was since `measured` reset it."""
    found = re.search(rf"{name}:\s+([0-9]+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def measured(work: Callable[[], Result]) -> tuple[Result, float, float]:
    """What `work` returns, its seconds, its peak memory in MB above what was resident before."""
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts anew at what is resident
    before, start = memory_mb("VmRSS"), time.perf_counter()
    result = work()
    return result, time.perf_counter() - start, memory_mb("VmHWM") - before


def prompt_costs(folder: Path, tokenizer: HFTokenizer) -> bool:
    """Seconds and memory a row, the whole preparation against the published cut alone."""
    met = True
    for subset, level in itertools.product(SUBSETS, LEVELS):
        row = dataset.load_file(subset, level, folder).row(0)
        text = utils.fill_template(config.DATASET_PROMPT[subset], row)
        theirs, ours = [], []
        for _ in range(3):
            expected, *cost = measured(partial(reference, tokenizer, text))
            theirs.append(cost)
            prepared, *cost = measured(partial(build, subset, row, tokenizer, "smollm2"))
            ours.append(cost)
            assert prepared == expected
        (fast, small), (slow, large) = (
            (min(seconds for seconds, _ in costs), max(peak for _, peak in costs))
            for costs in (ours, theirs)
        )
        met &= report_ratio(f"prompt of {subset} {level} / reference cut", fast, slow, 1.5)
        report("    peak memory of both", f"{small:.0f} MB / {large:.0f} MB")
    return met


def overlap(folder: Path) -> bool:
    """Wall time of rows through the workers against the sum of preparing and answering."""
    subset, level = "hotpotwikiqa_mixup", "256k"
    file = dataset.load_file(subset, level, folder)
    prepare = partial(build, subset, file.row(0), EchoTokenizer(), "echo")
    preparing = min(measured(prepare)[1] for _ in range(3))
    delay = 4 * preparing  # a model takes longer than its prompt
    job = Job(
        backend="echo",
        options=EngineOptions(None, LIMIT, args={"delay": delay}),
        model_name="echo",
        chat_template="auto",
        templates=config.DATASET_PROMPT,
        budgets=config.DATASET_MAXGEN,
        fingerprints={f"{subset}_{level}": file.fingerprint},
        data_path=folder,
    )
    tasks = [Task(subset, level, (0,)) for _ in range(OVERLAP_ROWS)]
    with worker_pool(single_process=True, count=1) as executor:
        start = time.perf_counter()
        assert len(list(dispatch.run_tasks(executor, job, tasks))) == OVERLAP_ROWS
        wall = time.perf_counter() - start
    total = OVERLAP_ROWS * (preparing + delay)
    ideal = (preparing + OVERLAP_ROWS * delay) / total
    name = f"prepare and answer through the pool / sum of both (ideal {ideal:.2f})"
    return report_ratio(name, wall, total, 0.88)


def main() -> int:
    """Measure and print; 0 if all goals are met."""
    parser = argparse.ArgumentParser(description="Time making prompts.")
    model = ROOT / "models/SmolLM2-135M-Instruct"
    parser.add_argument("--model", default=model, help="whose tokenizer is used")
    tokenizer = HFTokenizer(AutoTokenizer.from_pretrained(parser.parse_args().model))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        construct(folder, "--rows", 1, "--datasets", *SUBSETS, "--lengths", *LEVELS)
        met = [prompt_costs(folder, tokenizer), overlap(folder)]
    return not all(met)


if __name__ == "__main__":
    sys.exit(main())

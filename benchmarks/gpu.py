"""Measures the hf backend on a GPU with a random model of an 8B Llama's shape, as ratios.

    python benchmarks/gpu.py --output gpu.md   # one card of 80 GB, about six minutes, no network
    python benchmarks/gpu.py --cpu             # the same steps: a tiny model and short prompts

prediction.py answers prompts of 16k to 128k tokens in a worker process, whole and with
prefill_chunk_size. It loads a folder with one small layer and the embedded model's tokenizer; this
file is its plugin, whose `after_load` hands over a model of the full shape, made on the card with
the dtype and attention that the harness chose: 16 GB of weights never touch a disk. The plugin also
notes times and memory of each generation, and takes one row's memory away. That row must stay a
failure and the next be answered: only this decides the exit code. Afterwards a model of the same
seed gets the same tokens here, from a bare `generate`.

The columns:

- tokens/s, harness / bare: a row counts from the end of the one before it, so that all that the
  harness does between two generations is in it;
- prefill FLOP / peak: 2 x weights x tokens and causal attention, in the seconds to the first token,
  against 800 TFLOP/s (--cpu: a nominal 0.1);
- decode share: of the generation's seconds, those after the first token;
- memory: the allocator's peak, against weights and cache, and against the bare loop's;
- answer: whether the bare loop gives the same text, or why there is none.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from lveval.backends.hf_models import HFTokenizer

SUBSET = "hotpotwikiqa_mixup"
BUDGET = 64  # its answer's new tokens
ROWS = 3  # of the shortest file, one of the others: the two that come first are not timed
INCOMPLETE = 3  # exit code of a run with a row left
ROOM = 1 << 30  # bytes left to the row without memory: less than its cache
PEAK = {"cuda": 800e12, "cpu": 0.1e12}  # FLOP/s

HEAD = (
    *("prompt tokens", "prefill", "tokens/s, harness / bare", "prefill FLOP / peak"),
    *("decode share", "memory / (weights + cache)", "memory, harness / bare", "answer"),
)

Figures = dict[str, Any]  # of a generation: began, first, ended (seconds), peak (bytes)


class Size(NamedTuple):
    """A model's shape and the prompts that suit it."""

    shape: dict[str, int]
    levels: tuple[str, ...]  # of words, 1.4 tokens each
    longest: int  # tokens
    chunk: int


def shape(vocabulary: int, hidden: int, inner: int, layers: int, heads: int, kv: int) -> Figures:
    """Name what a Llama's configuration needs; its window is that of Llama 3.1."""
    return {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "max_position_embeddings": 131072,
    }


SIZES = {
    "8b": Size(shape(128256, 4096, 14336, 32, 32, 8), ("12k", "23k", "46k", "94k"), 130_500, 4096),
    "tiny": Size(shape(50000, 64, 128, 3, 4, 2), ("1k", "2k"), 2500, 512),
}


def llama(size: str, vocabulary: int, device: Any, dtype: Any, attention: str) -> Any:  # noqa: ANN401
    """Make a model of random weights where it will run; the same for the same seed and device.

    It never ends an answer before its budget, and answers in words of the small tokenizer.
    """
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    settings = LlamaConfig(**SIZES[size].shape, eos_token_id=None, pad_token_id=0)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(
            settings, dtype=dtype, attn_implementation=attention
        )
    model.lm_head.weight.data[vocabulary:] = 0  # below the best of so many random logits
    return model.eval()


@contextmanager
def timed(model: Any) -> Iterator[Figures]:  # noqa: ANN401
    """Note when a generation began, had its first token and ended, and its peak memory."""
    import torch

    on_gpu = model.device.type == "cuda"

    def now() -> float:
        if on_gpu:
            torch.cuda.synchronize()
        return time.time()

    def first_step(_: object, arguments: object, keywords: dict[str, Any]) -> None:
        if keywords["input_ids"].shape[1] == 1 and "first" not in figures:
            figures["first"] = now()

    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    figures: Figures = {"began": now(), "peak": None}
    watch = model.register_forward_pre_hook(first_step, with_kwargs=True)
    try:
        yield figures
    finally:
        watch.remove()
        figures["ended"] = now()
        if on_gpu:
            figures["peak"] = torch.cuda.max_memory_allocated()


@contextmanager
def without_memory(model: Any) -> Iterator[None]:  # noqa: ANN401
    """Leave a GPU too little memory for a prompt; on a CPU, ask for more than there can be."""
    import torch

    if model.device.type == "cuda":
        torch.cuda.empty_cache()
        free = torch.cuda.mem_get_info()[0]
        taken = [torch.empty(free - ROOM, dtype=torch.uint8, device=model.device)]
        give_back = taken.clear
    else:
        ask = partial(torch.empty, 1 << 60, dtype=torch.uint8)
        give_back = model.register_forward_pre_hook(lambda *_: ask()).remove
    try:
        yield
    finally:
        give_back()


class RandomModel:
    """The plugin, in the worker: the model of a size, and a line in `log` for each generation."""

    def __init__(self, size: str, log: str) -> None:
        self._size, self._log = size, Path(log)
        self._keys: dict[str, int] = {}

    def after_load(self, model: Any, tokenizer: Any) -> Any:  # noqa: ANN401
        """Put the large model in the small one's place."""
        how = model.device, model.dtype, model.config._attn_implementation
        large = llama(self._size, len(tokenizer), *how)
        bare(large, [1] * 256, {})  # libraries take their own memory now, not in the spoilt row
        return large

    @contextmanager
    def generating(self, model: Any, prompt: Any) -> Iterator[None]:  # noqa: ANN401
        """Time a generation; the row that comes second, whichever it is, gets no memory."""
        figures: Figures = {}
        number = self._keys.setdefault(prompt.key, len(self._keys))
        try:
            spoilt = without_memory(model) if number == 1 else nullcontext()
            with timed(model) as figures, spoilt:
                yield
        finally:
            line = {"key": prompt.key, "tokens": [*prompt.tokens], **figures}
            with self._log.open("a") as file:
                file.write(json.dumps(line) + "\n")


class Answered(NamedTuple):
    """What a run of the harness left: generations in their order, and what was kept of each row."""

    settings: Figures  # arguments of `generate`
    log: list[Figures]
    records: dict[str, Figures]
    failed: dict[str, Figures]
    identity: Figures  # of run.json


def read(paths: Iterable[Path]) -> dict[str, Figures]:
    """The last line of each row in JSON Lines files, by row, in the order of their first lines."""
    found = {}
    for item in (json.loads(line) for path in paths for line in path.read_text().splitlines()):
        found[item.get("key") or f"{SUBSET}/{item['level']}/{item['index']}"] = item
    return found


def answer(folder: Path, size: str, chunk: int | None) -> Answered:
    """Answer the rows with the harness; ends the script where that fails."""
    from figures import ROOT

    name, settings = str(chunk or "whole"), {"prefill_chunk_size": chunk} if chunk else {}
    log, plugin = folder / f"{name}.jsonl", f"{Path(__file__).resolve()}:RandomModel"
    command = [sys.executable, ROOT / "prediction.py", "--num-workers", 1, "--model-name", name]
    command += ["--model-path", folder / "model", "--model-max-len", SIZES[size].longest]
    command += ["--data-path", folder / "data", "--output-dir", folder / "out"]
    command += ["--datasets", SUBSET, "--lengths", *SIZES[size].levels]
    command += ["--generate-args", json.dumps(settings), "--plugin", plugin]
    command += ["--plugin-args", json.dumps({"size": size, "log": str(log)})]
    code = subprocess.run([*map(str, command)], stdout=subprocess.DEVNULL).returncode
    if code not in (0, INCOMPLETE):
        sys.exit(f"prediction.py ended with {code}, expected {INCOMPLETE}: a row without an answer")
    run = folder / "out" / name
    generations = [*read([log]).values()]
    for before, row in itertools.pairwise(generations):
        row["since"] = before["ended"]
    records, failed = (read(run.glob(files)) for files in ("rows/*.jsonl", "attempts.jsonl"))
    identity = json.loads((run / "run.json").read_text())["identity"]
    return Answered(settings, generations, records, failed, identity)


def fate(run: Answered) -> tuple[str, bool]:
    """Tell what became of the row without memory and of the next one; whether that is right."""
    lost, following = (row["key"] for row in run.log[1:3])
    failure = run.failed.get(lost, {"cause": "answered", "message": "-"})
    status = run.records.get(following, {"status": "not answered"})["status"]
    right = failure["cause"] == "error" and failure["message"].startswith("out of memory")
    how, device = run.identity["effective"], run.identity["engine"]["device"]
    told = (
        f"- prefill {run.identity['model_name']}: {device}, {how['dtype']}, {how['attn']}; without "
        f"memory {failure['cause']} ({failure['message']}), the next row {status}"
    )
    return told, right and status == "length" and lost not in run.records


def bare(model: Any, tokens: list[int], settings: Figures) -> tuple[Figures, list[int]]:  # noqa: ANN401
    """Time `generate` alone; returns its figures and the new tokens."""
    import torch

    with timed(model) as figures, torch.inference_mode():
        ids = torch.tensor([tokens], device=model.device)
        mask = torch.ones_like(ids)
        asked = {"max_new_tokens": BUDGET, "do_sample": False, **settings}
        new = model.generate(input_ids=ids, attention_mask=mask, **asked)[0, len(tokens) :].tolist()
    return figures, new


def shares(model: Any, row: Figures) -> list[str]:  # noqa: ANN401
    """The cells that need no bare loop: prefill FLOP, decode share, memory."""
    shape, weights = model.config, sum(weight.numel() for weight in model.parameters())
    tokens, inner = len(row["tokens"]), weights - 2 * shape.vocab_size * shape.hidden_size
    flop = 2 * inner * tokens + 2 * tokens**2 * shape.hidden_size * shape.num_hidden_layers
    prefill, total = row["first"] - row["began"], row["ended"] - row["began"]
    cache = 2 * (tokens + BUDGET) * shape.num_hidden_layers * shape.num_key_value_heads
    needed = (weights + cache * shape.head_dim) * model.dtype.itemsize
    used = flop / prefill / PEAK[model.device.type]
    memory = f"{row['peak'] / needed:.2f}" if row["peak"] else "-"
    return [f"{used:.2g}", f"{1 - prefill / total:.2f}", memory]


def against_bare(
    run: Answered,
    row: Figures,
    model: Any,  # noqa: ANN401
    words: "HFTokenizer",
) -> list[str]:
    """The cells that ask the bare loop for the same tokens: speed, memory, answer."""
    from lveval.backends.hf_models import is_out_of_memory

    try:
        alone, new = bare(model, row["tokens"], run.settings)
    except Exception as error:
        if is_out_of_memory(error):
            return ["-", "-", "bare: out of memory"]
        raise
    speed = (alone["ended"] - alone["began"]) / (row["ended"] - row["since"])
    memory = f"{row['peak'] / alone['peak']:.3f}" if row["peak"] else "-"
    record = run.records[row["key"]]
    same = record.get("raw_pred", record["pred"]) == words.decode_answer(new)
    return [f"{speed:.3f}", memory, "same" if same else "another"]


def compare(run: Answered, folder: Path, size: str, end: float) -> Iterator[str]:
    """Yield the lines of one way to prefill; no bare loop begins that would last beyond `end`."""
    import torch
    from transformers import AutoTokenizer

    from lveval.backends.hf_models import HFTokenizer

    words = HFTokenizer(AutoTokenizer.from_pretrained(folder / "model"))
    how, device = run.identity["effective"], run.identity["engine"]["device"]
    model = llama(size, len(words.raw), device, getattr(torch, how["dtype"]), how["attn"])
    bare(model, run.log[0]["tokens"], run.settings)  # the worker's first row is not timed either
    for row in sorted(run.log[2:], key=lambda row: len(row["tokens"])):
        speed, used, memory, text = "-", ["-"] * 3, "-", "-"
        if row["key"] not in run.records:
            text = run.failed[row["key"]]["message"]
        else:
            used = shares(model, row)
            if time.time() + row["ended"] - row["began"] < end:
                speed, memory, text = against_bare(run, row, model, words)
        cells = [f"{len(row['tokens']):,}", run.identity["model_name"], speed, *used, memory, text]
        yield f"| {' | '.join(cells)} |"
    del model
    if device == "cuda":
        torch.cuda.empty_cache()  # the next worker's model needs it


def prepare(folder: Path, size: str, tokenizer: Path) -> None:
    """Write the data, and the small model that stands on disk for the large one."""
    from figures import construct
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    first, *others = SIZES[size].levels
    for rows, levels in ((ROWS, [first]), (1, others)):
        construct(folder / "data", "--datasets", SUBSET, "--rows", rows, "--lengths", *levels)
    words = AutoTokenizer.from_pretrained(tokenizer)
    words.save_pretrained(folder / "model")
    small = LlamaConfig(**shape(len(words), 32, 64, 1, 2, 1))
    LlamaForCausalLM(small).save_pretrained(folder / "model")


def measure(size: str, tokenizer: Path, end: float) -> Iterator[tuple[str, bool]]:
    """Yield the lines of the page; False beside one that tells of a row treated wrongly."""
    import torch
    import transformers

    card = "a CPU" if size == "tiny" else torch.cuda.get_device_name()
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    yield f"hf backend on {card}: {versions}\n", True
    yield f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}", True
    notes = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, size, tokenizer)
        for chunk in (None, SIZES[size].chunk):
            run = answer(folder, size, chunk)
            notes.append(fate(run))
            yield from ((line, True) for line in compare(run, folder, size, end))
    yield "", True
    yield from notes


def main() -> int:
    """Measure and print; 0 if the row without memory failed, alone."""
    parser = argparse.ArgumentParser(description="Measure the hf backend on a GPU.")
    parser.add_argument("--cpu", action="store_true", help="a tiny model on the CPU, short prompts")
    parser.add_argument("--output", type=Path, help="also write what is printed to this file")
    parser.add_argument("--minutes", type=float, default=6, help="bare loops end before that (6)")
    model = Path(__file__).resolve().parent.parent / "models/SmolLM2-135M-Instruct"
    parser.add_argument("--tokenizer", type=Path, default=model, help="folder of the tokenizer")
    options = parser.parse_args()
    end = time.time() + 60 * options.minutes
    os.environ["HF_HUB_OFFLINE"] = "1"
    if options.cpu:
        # One thread: several slow each other where cores are shared, and not both halves alike.
        os.environ |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    import torch

    if not options.cpu and not torch.cuda.is_available():
        parser.error("torch finds no GPU; --cpu takes the same steps with a tiny model")
    met, page = True, ""
    for line, right in measure("tiny" if options.cpu else "8b", options.tokenizer, end):
        print(line, flush=True)
        met, page = met and right, f"{page}{line}\n"
        if options.output:
            options.output.write_text(page)  # at once: what a time limit cuts off leaves the rest
    return not met


if __name__ == "__main__":
    sys.exit(main())

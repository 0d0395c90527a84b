"""Whether a run can work, told before hours are spent on it: data, window, chat format, and one prompt of full length.

python prediction.py --check --backend openai --base-url http://127.0.0.1:8000/v1 --model-name NAME --tokenizer server

The prompt is as long as --model-max-len allows and holds three numbers, at its head, middle and tail. A service that
counts far fewer tokens than were sent has cut it; a model that gives no number back does not read it whole.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from lveval import config, utils
from lveval.backends import ON_GPUS, REMOTE, backend_module
from lveval.backends.base import Backend, BackendBroken, Generation, Tokenizer
from lveval.common.errors import ExitCode, LVEvalError
from lveval.common.text import printable
from lveval.data.rows import Row
from lveval.execution import dispatch, tasks
from lveval.execution.pool import worker_pool
from lveval.planning.passkey import PLACES, passkey_prompt

if TYPE_CHECKING:
    from lveval.data.selection import SelectedFile

ANSWER = 48  # new tokens

TRIES = 3  # of a service; a run would go on

# A service's count may differ from ours by the chat format, and by so much where its tokenizer is another one.
FEWER, MORE = 0.9, 1.25


class CheckResult(NamedTuple):
    """One line of the report."""

    level: Literal["ok", "warning", "error"]
    text: str


def run_checks(
    job: tasks.Job, files: Sequence["SelectedFile"], gpus: Sequence[str], single_process: bool
) -> ExitCode:
    """Print what is found, line by line; USAGE where something is an error. Loads the model, or asks the service.

    The model is loaded as the run would: in a worker, on the first group of `gpus`, or spread over all in this process.
    """
    worst = ExitCode.COMPLETE
    for finding in _results(job, files, gpus, single_process):
        print(f"{finding.level:<8} {printable(finding.text)}", flush=True)
        if finding.level == "error":
            worst = ExitCode.USAGE
    return worst


def _results(
    job: tasks.Job, files: Sequence["SelectedFile"], gpus: Sequence[str], single_process: bool
) -> Iterator[CheckResult]:
    yield from check_data({(one.file.subset, one.file.level): len(one.file) for one in files})
    module = backend_module(job.backend)
    if job.backend in ON_GPUS:
        yield from check_positions(job)
    tokenizer = module.tokenizer(job.options)
    yield from check_format(
        job, tokenizer, utils.uses_native_chat(module.native_chat(job.options), job.chat_template)
    )
    if single_process or job.backend not in ON_GPUS:
        yield from ask_model(job)
        return
    try:
        with worker_pool(
            single_process=False,
            count=1,
            gpus=gpus[:1],
            max_concurrent_rows=job.max_concurrent_rows,
        ) as executor:
            future = executor.submit(ask_model, job)
            died = CheckResult(
                "error", "the worker process died each time it loaded the model or read the prompt"
            )
            yield from [died] if dispatch.worker_died(future) else future.result()
    except LVEvalError as error:
        yield CheckResult("error", error.message)


def ask_model(job: tasks.Job) -> list[CheckResult]:
    """Load the engine in this process, or reach the service, and ask one prompt."""
    findings: list[CheckResult] = []
    try:
        backend = backend_module(job.backend).load(job.options)
        findings += check_service(job, backend)
        findings += check_long_prompt(job, backend)
    except (LVEvalError, BackendBroken) as error:
        findings.append(CheckResult("error", str(error)))
    return findings


def check_data(rows: Mapping[tuple[str, str], int]) -> Iterator[CheckResult]:
    """Whether the files have as many rows as the published ones; `rows`: (subset, level) -> rows of the file."""
    published = {
        name: config.DATASET_ROWS[name[0]]
        for name in rows
        if name[0] in config.DATASET_ROWS and name[1] in config.DATASET_LENGTH_LEVEL
    }
    fewer = [
        f"{'_'.join(name)} {rows[name]} of {number}"
        for name, number in published.items()
        if rows[name] != number
    ]
    total = f"data: {len(rows)} files, {sum(rows.values()):,} rows, each checked"
    if fewer:
        more = f" and {len(fewer) - 3} more" if len(fewer) > 3 else ""
        yield CheckResult(
            "warning", f"{total}; not the published number of rows: {', '.join(fewer[:3])}{more}"
        )
    else:
        yield CheckResult("ok", total + (", as published" if len(published) == len(rows) else ""))


def check_positions(job: tasks.Job) -> Iterator[CheckResult]:
    """Whether the model was made for prompts of this length."""
    from lveval.backends import hf_models

    settings = hf_models.load_config(hf_models.model_source(job.options), job.options)
    text = settings.get_text_config() if hasattr(settings, "get_text_config") else settings
    limit, window = job.options.model_max_len, hf_models.context_window(settings, job.options)
    if window is None:
        yield CheckResult(
            "warning", f"window: the model does not tell it; is {limit:,} tokens within it?"
        )
    else:
        yield CheckResult(
            "ok",
            f"window: {window:,} tokens, of which prompts use {limit:,} and answers {job.options.budget}",
        )
    scaling: Any = (
        getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    )
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    trained = scaling.get("original_max_position_embeddings")
    if kind not in ("default", "mrope"):
        beyond = f", from the {trained:,} tokens it was trained on" if trained else ""
        yield CheckResult(
            "ok",
            f"positions: scaled by the model ({kind}, factor {scaling.get('factor', 'unknown')}{beyond})",
        )
    elif trained and limit > trained:
        yield CheckResult(
            "warning",
            f"positions: the model was trained on {trained:,} tokens and scales none; expected a limit within that, or "
            "the rope_scaling that its model card gives",
        )
    sliding = getattr(text, "sliding_window", None)
    if isinstance(sliding, int) and getattr(text, "use_sliding_window", True) and sliding < limit:
        yield CheckResult("warning", f"attention: some layers see only the last {sliding:,} tokens")


def check_format(job: tasks.Job, tokenizer: Tokenizer, native_chat: bool) -> Iterator[CheckResult]:
    """What the model gets around the prompt."""
    if native_chat:
        yield CheckResult("ok", "chat format: made by the model's own .chat(), or by the service")
        return
    part = utils.chat_format_of(job.model_name)
    formatted, special = utils.format_chat(tokenizer, "PROMPT", job.model_name, job.chat_template)
    before, _, after = formatted.partition("PROMPT")
    shown = f"{before[-60:]!r} PROMPT {after[:60]!r}"
    if part and tokenizer.has_chat_template and job.chat_template in ("auto", "published"):
        yield CheckResult(
            "warning",
            f'chat format: {shown}, because the model name contains "{part}"; the tokenizer has a template of its own '
            "(--chat-template tokenizer)",
        )
    elif before or after:
        yield CheckResult("ok", f"chat format: {shown}")
    else:
        yield CheckResult(
            "warning",
            "chat format: none; right for a base model, an instruction-tuned one expects its own",
        )
    tokens = tokenizer.encode(formatted, add_special_tokens=special)
    if tokenizer.bos is None:
        return
    begins = next(
        (place for place, token in enumerate(tokens) if token != tokenizer.bos), len(tokens)
    )
    if begins > 1:
        yield CheckResult(
            "ok", f"BOS: {begins} at the beginning of the formatted prompt; one is sent"
        )
    elif begins == 0 and list(tokenizer.encode("x"))[:1] == [tokenizer.bos]:
        yield CheckResult(
            "warning", "BOS: the tokenizer begins a text with it, and the formatted prompt has none"
        )
    else:
        yield CheckResult(
            "ok", f"BOS: {begins} at the beginning of the prompt, as the tokenizer has it"
        )


def check_service(job: tasks.Job, backend: Backend) -> Iterator[CheckResult]:
    """What a service says of itself."""
    if job.backend not in REMOTE:
        return
    yield CheckResult(
        "ok",
        f"service: it answers, {', '.join(f'{k} {v}' for k, v in backend.resolved_settings().items())}",
    )
    window, needed = backend.context_window(), job.options.model_max_len + job.options.budget
    if window is None:
        return
    level: Literal["ok", "error"] = "ok" if needed <= window else "error"
    yield CheckResult(
        level,
        f"service: its window is {window:,} tokens; prompts and answers take up to {needed:,}",
    )


def check_long_prompt(job: tasks.Job, backend: Backend) -> Iterator[CheckResult]:
    """One prompt of the full length: how much of it arrives, and what of it comes back."""
    text, codes = passkey_prompt(backend.tokenizer, job.options.model_max_len)
    asked = {
        "context": text,
        "input": "",
        "answer_keywords": None,
        "answers": [""],
        "offsets": None,
    }
    row, budget = cast(Row, asked), max(ANSWER, job.options.budget)
    limit, mode = job.options.model_max_len, job.chat_template
    made = utils.build_prompt(
        row,
        "{context}{input}",
        budget,
        backend.tokenizer,
        limit,
        job.model_name,
        mode,
        backend.native_chat,
    )
    prompt = replace(made.prompt, key="canary")
    tokens = prompt.tokens
    answer, tries = Generation("", "error"), 0
    with closing(cast(Generator[tuple[int, Generation]], backend.generate([prompt]))) as answers:
        for _, answer in answers:
            tries += 1
            if answer.status != "transient" or tries == TRIES:
                break
    if answer.error:
        yield CheckResult(
            "error", f"prompt of {len(tokens):,} tokens: {answer.status}: {answer.error}"
        )
        return
    counted = answer.usage.get("prompt_tokens")
    if counted is not None and counted < FEWER * len(tokens):
        yield CheckResult(
            "error",
            f"prompt of {len(tokens):,} tokens: the service counted {counted:,}; it cuts prompts, or --tokenizer is "
            "not its model's",
        )
    elif counted is not None and counted > MORE * len(tokens):
        yield CheckResult(
            "warning",
            f"prompt of {len(tokens):,} tokens: the service counted {counted:,}; is --tokenizer its model's?",
        )
    else:
        yield CheckResult(
            "ok",
            f"prompt of {len(tokens):,} tokens: taken"
            + (f", counted {counted:,}" if counted else ""),
        )
    back = [place for place, code in codes.items() if code in answer.text]
    lost = [place for place in PLACES if place not in back]
    if lost:
        yield CheckResult(
            "warning",
            f"read back: {', '.join(back) or 'nothing'}; not the {' and '.join(lost)} code; the answer was "
            f"{answer.text.strip()[:80]!r}",
        )
    else:
        yield CheckResult("ok", "read back: the codes at the head, in the middle and at the tail")

"""Whether a run can work, before hours are spent on it: data, window, chat format, one long prompt.

    python prediction.py --check --backend openai --base-url URL --model-name NAME

The prompt is as long as --model-max-len allows and holds three numbers, at its head, middle and
tail. A service that counts far fewer tokens than were sent has cut it; a model that gives no
number back does not read it whole.
"""

import itertools
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, cast

from lveval import config, utils
from lveval.backends import backend_module
from lveval.backends.base import (
    CheckResult,
    Engine,
    EngineBroken,
    Generation,
    Prompt,
    Tokenizer,
    Tokens,
    error,
    ok,
    warning,
)
from lveval.common.errors import ExitCode, LVEvalError
from lveval.common.levels import FileKey
from lveval.common.redaction import redacted
from lveval.common.text import printable
from lveval.data.rows import Row
from lveval.execution import dispatch
from lveval.execution.pool import worker_pool
from lveval.execution.tasks import Job
from lveval.planning.passkey import PLACES, passkey_prompt

if TYPE_CHECKING:
    from lveval.data.selection import SelectedFile

ANSWER = 48  # new tokens

TRIES = 3  # of a service; a run would go on

# A service's count may differ from ours by the chat format, and by so much where its tokenizer is
# another one.
FEWER, MORE = 0.9, 1.25


def run_checks(
    job: Job, files: Sequence["SelectedFile"], gpus: Sequence[str], single_process: bool
) -> ExitCode:
    """Print each result as it comes; returns USAGE where one is an error.

    The model is loaded as the run would: in a worker, on the first group of `gpus`, or spread over
    all in this process.
    """
    worst = ExitCode.COMPLETE
    for result in _results(job, files, gpus, single_process):
        print(f"{result.level:<8} {printable(redacted(result.text))}", flush=True)
        if result.level == "error":
            worst = ExitCode.USAGE
    return worst


def _results(
    job: Job, files: Sequence["SelectedFile"], gpus: Sequence[str], single_process: bool
) -> Iterator[CheckResult]:
    yield from check_data({(one.file.subset, one.file.level): len(one.file) for one in files})
    module = backend_module(job.backend)
    yield from module.check_model(job.options)
    tokenizer = module.tokenizer(job.options)
    native_chat = utils.uses_native_chat(module.native_chat(job.options), job.chat_template)
    yield from check_format(job, tokenizer, native_chat)
    if single_process or not module.ON_GPUS:
        yield from ask_model(job)
    else:
        yield from _ask_model_in_worker(job, gpus)


def _ask_model_in_worker(job: Job, gpus: Sequence[str]) -> list[CheckResult]:
    try:
        with worker_pool(
            single_process=False,
            count=1,
            gpus=gpus[:1],
            max_concurrent_rows=job.max_concurrent_rows,
        ) as executor:
            future = executor.submit(ask_model, job)
            if not dispatch.worker_died(future):
                return future.result()
            return [
                error("the worker process died each time it loaded the model or read the prompt")
            ]
    except LVEvalError as problem:
        return [error(problem.message)]


def ask_model(job: Job) -> list[CheckResult]:
    """Load the engine in this process, or reach the service, and ask one prompt."""
    results: list[CheckResult] = []
    try:
        backend = backend_module(job.backend).load(job.options)
        results += check_service(job, backend)
        results += check_long_prompt(job, backend)
    except (LVEvalError, EngineBroken) as problem:
        results.append(error(str(problem)))
    return results


def check_data(rows: Mapping[FileKey, int]) -> Iterator[CheckResult]:
    """Compare the number of rows of each file with the published one."""
    published = {
        (subset, level): config.DATASET_ROWS[subset]
        for subset, level in rows
        if subset in config.DATASET_ROWS and level in config.DATASET_LENGTH_LEVEL
    }
    other = [
        f"{'_'.join(name)} {rows[name]} of {number}"
        for name, number in published.items()
        if rows[name] != number
    ]
    total = f"data: {len(rows)} files, {sum(rows.values()):,} rows, each checked"
    if other:
        more = f" and {len(other) - 3} more" if len(other) > 3 else ""
        yield warning(f"{total}; not the published number of rows: {', '.join(other[:3])}{more}")
    else:
        yield ok(total + (", as published" if len(published) == len(rows) else ""))


def check_format(job: Job, tokenizer: Tokenizer, native_chat: bool) -> Iterator[CheckResult]:
    """Show what the model gets around the prompt, and how it begins."""
    if native_chat:
        yield ok("chat format: made by the model's own .chat(), or by the service")
        return
    choice = utils.choose_chat_format(
        tokenizer.has_chat_template, job.model_name, job.chat_template
    )
    formatted, special = utils.format_chat(tokenizer, "PROMPT", job.model_name, job.chat_template)
    before, _, after = formatted.partition("PROMPT")
    shown = f"{before[-60:]!r} PROMPT {after[:60]!r}, {choice.why}"
    if choice.kind == "none":
        yield warning(
            f"chat format: {choice.why}; right for a base model, an instruction-tuned one expects "
            "its own"
        )
    elif choice.kind != "template" and tokenizer.has_chat_template:
        yield warning(f"chat format: {shown} (--chat-template tokenizer takes it)")
    else:
        yield ok(f"chat format: {shown}")
    tokens = tokenizer.encode(formatted, add_special_tokens=special)
    if tokenizer.bos is not None:
        yield _check_bos(tokenizer, tokens)
    yield from _check_eos(tokenizer, tokens)


def _check_bos(tokenizer: Tokenizer, tokens: Tokens) -> CheckResult:
    number = next(
        (place for place, token in enumerate(tokens) if token != tokenizer.bos), len(tokens)
    )
    if number > 1:
        return ok(f"BOS: {number} at the beginning of the formatted prompt; one is sent")
    if number == 0 and list(tokenizer.encode("x"))[:1] == [tokenizer.bos]:
        return warning(
            "BOS: the tokenizer begins a text with it, and the formatted prompt has none"
        )
    return ok(f"BOS: {number} at the beginning of the prompt, as the tokenizer has it")


def _check_eos(tokenizer: Tokenizer, tokens: Tokens) -> Iterator[CheckResult]:
    if tokens and tokens[-1] == tokenizer.appended_eos:
        yield ok("EOS: the tokenizer puts one after a text; none is sent, or nothing would follow")


def check_service(job: Job, backend: Engine) -> Iterator[CheckResult]:
    """Report what a remote backend says of itself, and whether its window is large enough."""
    if not backend_module(job.backend).REMOTE:
        return
    settings = ", ".join(f"{name} {value}" for name, value in backend.resolved_settings().items())
    yield ok(f"service: it answers, {settings}")
    window, needed = (
        backend.context_window(),
        job.options.model_max_len + job.options.max_new_tokens,
    )
    if window is not None:
        yield CheckResult(
            "ok" if needed <= window else "error",
            f"service: its window is {window:,} tokens; prompts and answers take up to {needed:,}",
        )


def check_long_prompt(job: Job, backend: Engine) -> Iterator[CheckResult]:
    """Ask one prompt of the full length: how much of it arrives, and what of it comes back."""
    text, codes = passkey_prompt(backend.tokenizer, job.options.model_max_len)
    prompt = _long_prompt(job, backend, text)
    yield from _check_sent(backend.tokenizer, prompt, codes)
    answer = _ask(backend, prompt)
    sent = len(prompt.tokens)
    if answer.error:
        yield error(f"prompt of {sent:,} tokens: {answer.status}: {answer.error}")
        return
    yield _check_count(sent, answer.usage.get("prompt_tokens"))
    back = [place for place, code in codes.items() if code in answer.text]
    lost = [place for place in PLACES if place not in back]
    if lost:
        yield warning(
            f"read back: {', '.join(back) or 'nothing'}; not the {' and '.join(lost)} code; the "
            f"answer was {answer.text.strip()[:80]!r}"
        )
    else:
        yield ok("read back: the codes at the head, in the middle and at the tail")


def _check_sent(
    tokenizer: Tokenizer, prompt: Prompt, codes: Mapping[str, str]
) -> Iterator[CheckResult]:
    """Compare the tokens that are sent with what was meant, at both ends and in the middle."""
    text = prompt.text if prompt.native_chat else tokenizer.decode(prompt.tokens)
    if lost := [place for place, code in codes.items() if code not in text]:
        yield error(
            f"prompt: of what was meant the {' and '.join(lost)} is not in the "
            f"{len(prompt.tokens):,} tokens that are sent"
        )
    elif not prompt.native_chat:
        ends = [tokenizer.decode(part) for part in (prompt.tokens[:12], prompt.tokens[-12:])]
        yield ok(f"prompt: whole, from {ends[0]!r} to {ends[1]!r}")


def _long_prompt(job: Job, backend: Engine, text: str) -> Prompt:
    nothing = dict.fromkeys(("answer_keywords", "confusing_facts", "offsets"))
    row = {"context": text, "input": "", "answers": [""], **nothing}
    return utils.build_prompt(
        cast(Row, row),
        "{context}",
        max(ANSWER, job.options.max_new_tokens),
        backend.tokenizer,
        job.options.model_max_len,
        job.model_name,
        job.chat_template,
        backend.native_chat,
        key="canary",
    ).prompt


def _ask(backend: Engine, prompt: Prompt) -> Generation:
    """The last of at most TRIES answers."""
    answer = Generation("", "error")
    answers = cast(Generator[tuple[int, Generation]], backend.generate([prompt]))
    with closing(answers):
        for _, answer in itertools.islice(answers, TRIES):
            if answer.status != "transient":
                break
    return answer


def _check_count(sent: int, counted: int | None) -> CheckResult:
    prompt = f"prompt of {sent:,} tokens: "
    if counted is None:
        return ok(f"{prompt}taken")
    if counted < FEWER * sent:
        return error(
            f"{prompt}the service counted {counted:,}; it cuts prompts, or --tokenizer is not its "
            "model's"
        )
    if counted > MORE * sent:
        return warning(f"{prompt}the service counted {counted:,}; is --tokenizer its model's?")
    return ok(f"{prompt}taken, counted {counted:,}")

"""Whether a run can work, told before hours are spent on it: data, window, chat format, and one prompt of full length.

python prediction.py --check --backend openai --base-url http://127.0.0.1:8000/v1 --model-name NAME --tokenizer server

The prompt is as long as --model-max-len allows and holds three numbers, at its head, middle and tail. A service that
counts far fewer tokens than were sent has cut it; a model that gives no number back does not read it whole.
"""

import random
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import backends
import config
import construct
import data
import utils
import workers
from backends import Answer, Backend, BackendBroken, Tokenizer
from errors import ExitCode, HarnessError, printable

if TYPE_CHECKING:
    from prediction import Selected

PLACES = ("first", "middle", "last")
WHERE = (0.02, 0.5, 0.98)  # of the prompt
SENTENCE = " The pass code of the {place} gate is {code}. "
INSTRUCTION = "Read the article below. Three pass codes stand in it.\n\nArticle:\n"
QUESTION = (
    "\n\nQuestion: What are the pass codes of the first, the middle and the last gate?\nAnswer: The three codes are"
)
ANSWER = 48  # new tokens
TRIES = 3  # of a service; a run would go on
# A service's count may differ from ours by the chat format, and by so much where its tokenizer is another one.
FEWER, MORE = 0.9, 1.25


class Finding(NamedTuple):
    """One line of the report."""

    level: Literal["ok", "warning", "error"]
    text: str


def check(job: workers.Job, files: Sequence["Selected"], gpus: Sequence[str], single_process: bool) -> ExitCode:
    """Print what is found, line by line; USAGE where something is an error. Loads the model, or asks the service.

    The model is loaded as the run would: in a worker, on the first group of `gpus`, or spread over all in this process.
    """
    worst = ExitCode.COMPLETE
    for finding in _findings(job, files, gpus, single_process):
        print(f"{finding.level:<8} {printable(finding.text)}", flush=True)
        if finding.level == "error":
            worst = ExitCode.USAGE
    return worst


def _findings(
    job: workers.Job, files: Sequence["Selected"], gpus: Sequence[str], single_process: bool
) -> Iterator[Finding]:
    yield from of_data({(one.file.subset, one.file.level): len(one.file) for one in files})
    module = backends.module(job.backend)
    if job.backend in backends.ON_GPUS:
        yield from of_positions(job)
    tokenizer = module.tokenizer(job.options)
    yield from of_format(job, tokenizer, utils.uses_own_chat(module.own_chat(job.options), job.chat_template))
    if single_process or job.backend not in backends.ON_GPUS:
        yield from ask(job)
        return
    try:
        with workers.pool(single_process=False, count=1, gpus=gpus[:1], at_once=job.at_once) as executor:
            future = executor.submit(ask, job)
            died = Finding("error", "the worker process died each time it loaded the model or read the prompt")
            yield from [died] if workers.worker_died(future) else future.result()
    except HarnessError as error:
        yield Finding("error", error.message)


def ask(job: workers.Job) -> list[Finding]:
    """Load the engine in this process, or reach the service, and ask one prompt."""
    findings: list[Finding] = []
    try:
        backend = backends.module(job.backend).load(job.options)
        findings += of_service(job, backend)
        findings += of_canary(job, backend)
    except (HarnessError, BackendBroken) as error:
        findings.append(Finding("error", str(error)))
    return findings


def of_data(rows: Mapping[tuple[str, str], int]) -> Iterator[Finding]:
    """Whether the files have as many rows as the published ones; `rows`: (subset, level) -> rows of the file."""
    published = {
        name: config.DATASET_ROWS[name[0]]
        for name in rows
        if name[0] in config.DATASET_ROWS and name[1] in config.DATASET_LENGTH_LEVEL
    }
    fewer = [f"{'_'.join(name)} {rows[name]} of {number}" for name, number in published.items() if rows[name] != number]
    total = f"data: {len(rows)} files, {sum(rows.values()):,} rows, each checked"
    if fewer:
        more = f" and {len(fewer) - 3} more" if len(fewer) > 3 else ""
        yield Finding("warning", f"{total}; not the published number of rows: {', '.join(fewer[:3])}{more}")
    else:
        yield Finding("ok", total + (", as published" if len(published) == len(rows) else ""))


def of_positions(job: workers.Job) -> Iterator[Finding]:
    """Whether the model was made for prompts of this length."""
    from backends import model_files

    settings = model_files.config_of(model_files.source_of(job.options), job.options)
    text = settings.get_text_config() if hasattr(settings, "get_text_config") else settings
    limit, window = job.options.model_max_len, model_files.window_of(settings, job.options)
    if window is None:
        yield Finding("warning", f"window: the model does not tell it; is {limit:,} tokens within it?")
    else:
        yield Finding(
            "ok", f"window: {window:,} tokens, of which prompts use {limit:,} and answers {job.options.budget}"
        )
    scaling: Any = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    trained = scaling.get("original_max_position_embeddings")
    if kind not in ("default", "mrope"):
        beyond = f", from the {trained:,} tokens it was trained on" if trained else ""
        yield Finding(
            "ok", f"positions: scaled by the model ({kind}, factor {scaling.get('factor', 'unknown')}{beyond})"
        )
    elif trained and limit > trained:
        yield Finding(
            "warning",
            f"positions: the model was trained on {trained:,} tokens and scales none; expected a limit within that, or "
            "the rope_scaling that its model card gives",
        )
    sliding = getattr(text, "sliding_window", None)
    if isinstance(sliding, int) and getattr(text, "use_sliding_window", True) and sliding < limit:
        yield Finding("warning", f"attention: some layers see only the last {sliding:,} tokens")


def of_format(job: workers.Job, tokenizer: Tokenizer, own_chat: bool) -> Iterator[Finding]:
    """What the model gets around the prompt."""
    if own_chat:
        yield Finding("ok", "chat format: made by the model's own .chat(), or by the service")
        return
    part = utils.chat_format_of(job.model_name)
    formatted, special = utils.format_chat(tokenizer, "PROMPT", job.model_name, job.chat_template)
    before, _, after = formatted.partition("PROMPT")
    shown = f"{before[-60:]!r} PROMPT {after[:60]!r}"
    if part and tokenizer.has_chat_template and job.chat_template in ("auto", "published"):
        yield Finding(
            "warning",
            f'chat format: {shown}, because the model name contains "{part}"; the tokenizer has a template of its own '
            "(--chat-template tokenizer)",
        )
    elif before or after:
        yield Finding("ok", f"chat format: {shown}")
    else:
        yield Finding("warning", "chat format: none; right for a base model, an instruction-tuned one expects its own")
    tokens = tokenizer.encode(formatted, add_special_tokens=special)
    if tokenizer.bos is None:
        return
    begins = next((place for place, token in enumerate(tokens) if token != tokenizer.bos), len(tokens))
    if begins > 1:
        yield Finding("ok", f"BOS: {begins} at the beginning of the formatted prompt; one is sent")
    elif begins == 0 and list(tokenizer.encode("x"))[:1] == [tokenizer.bos]:
        yield Finding("warning", "BOS: the tokenizer begins a text with it, and the formatted prompt has none")
    else:
        yield Finding("ok", f"BOS: {begins} at the beginning of the prompt, as the tokenizer has it")


def of_service(job: workers.Job, backend: Backend) -> Iterator[Finding]:
    """What a service says of itself."""
    if job.backend not in backends.HOSTED:
        return
    from backends.openai_api import OpenAIBackend

    yield Finding("ok", f"service: it answers, {', '.join(f'{k} {v}' for k, v in backend.effective().items())}")
    if not isinstance(backend, OpenAIBackend):
        return
    window, needed = backend.window(), job.options.model_max_len + job.options.budget
    if window is None:
        return
    level: Literal["ok", "error"] = "ok" if needed <= window else "error"
    yield Finding(level, f"service: its window is {window:,} tokens; prompts and answers take up to {needed:,}")


def of_canary(job: workers.Job, backend: Backend) -> Iterator[Finding]:
    """One prompt of the full length: how much of it arrives, and what of it comes back."""
    text, codes = canary(backend.tokenizer, job.options.model_max_len)
    asked = {"context": text, "input": "", "answer_keywords": None, "answers": [""], "offsets": None}
    row, budget = cast(data.Row, asked), max(ANSWER, job.options.budget)
    limit, mode = job.options.model_max_len, job.chat_template
    made = utils.prepare(
        row, "{context}{input}", budget, backend.tokenizer, limit, job.model_name, mode, backend.own_chat
    )
    prompt = replace(made.prompt, key="canary")
    tokens = prompt.tokens
    answer, tries = Answer("", "error"), 0
    with closing(cast(Generator[tuple[int, Answer]], backend.generate([prompt]))) as answers:
        for _, answer in answers:
            tries += 1
            if answer.status != "transient" or tries == TRIES:
                break
    if answer.error:
        yield Finding("error", f"prompt of {len(tokens):,} tokens: {answer.status}: {answer.error}")
        return
    counted = answer.usage.get("prompt_tokens")
    if counted is not None and counted < FEWER * len(tokens):
        yield Finding(
            "error",
            f"prompt of {len(tokens):,} tokens: the service counted {counted:,}; it cuts prompts, or --tokenizer is "
            "not its model's",
        )
    elif counted is not None and counted > MORE * len(tokens):
        yield Finding(
            "warning", f"prompt of {len(tokens):,} tokens: the service counted {counted:,}; is --tokenizer its model's?"
        )
    else:
        yield Finding("ok", f"prompt of {len(tokens):,} tokens: taken" + (f", counted {counted:,}" if counted else ""))
    back = [place for place, code in codes.items() if code in answer.text]
    lost = [place for place in PLACES if place not in back]
    if lost:
        yield Finding(
            "warning",
            f"read back: {', '.join(back) or 'nothing'}; not the {' and '.join(lost)} code; the answer was "
            f"{answer.text.strip()[:80]!r}",
        )
    else:
        yield Finding("ok", "read back: the codes at the head, in the middle and at the tail")


def canary(tokenizer: Tokenizer, limit: int) -> tuple[str, dict[str, str]]:
    """A prompt of at most `limit` tokens, and nearly as many, and place -> the code that stands there."""
    rng = random.Random(0)  # noqa: S311 - no secret
    codes = {place: str(rng.randint(10_000, 99_999)) for place in PLACES}
    sentences = [SENTENCE.format(place=place, code=code) for place, code in codes.items()]
    around = len(tokenizer.encode(INSTRUCTION + "".join(sentences) + QUESTION)) + 8
    if around >= limit:
        raise HarnessError(f"--model-max-len {limit}: too few for a prompt that --check could ask")
    filler = "\n\n".join(document.text for document in construct.fiction("en", 0, max(200, limit)))
    words = tokenizer.decode(tokenizer.encode(filler, add_special_tokens=False)[: limit - around]).split(" ")
    for where, sentence in zip(reversed(WHERE), reversed(sentences), strict=True):
        words.insert(int(where * len(words)), sentence.strip())
    return INSTRUCTION + " ".join(words) + QUESTION, codes

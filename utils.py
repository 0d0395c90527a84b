"""HOW a row becomes a prompt: template, truncation, chat format, post-processing. Edit CHAT_FORMATS
for a new model.

    python prediction.py --model-path MODEL --model-name NAME --chat-template auto

The order of steps is the published harness's: fill the template, cut the middle, wrap in the chat
format, tokenise.
"""

import hashlib
import inspect
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from lveval import user_tables
from lveval.backends.base import Json, Prompt, Tokenizer
from lveval.common import reasoning
from lveval.common.errors import UsageError
from lveval.data import positions
from lveval.data.positions import Depths, Span
from lveval.data.rows import Row

VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, "
    "and polite answers to the user's questions. USER: ",  # FastChat's vicuna_v1.1 conversation
    " ASSISTANT:",
)

LLAMA2 = ("[INST]", "[/INST]\n\n")

# A part of --model-name (case matters, the first match wins) -> what stands before and after the
# prompt. Yours: an entry here wins over the model's own chat template and over the table below, as
# in {"my-model": ("<user>", "<assistant>")}.
CHAT_FORMATS: dict[str, tuple[str, str]] = {}

# The same of the published harness, for models whose tokenizer brings no chat template.
PUBLISHED_FORMATS: dict[str, tuple[str, str]] = {
    "BlueLM": ("[|Human|]:", "[|AI|]:"),
    "vicuna": VICUNA,
    "sft": VICUNA,
    "llama2": LLAMA2,
    "Llama-2": LLAMA2,
    "LLaMA": LLAMA2,
    "Mistral": ("<s>[INST] ", " [/INST]"),
    "internlm": ("<|User|>:", "<eoh>\n<|Bot|>:"),
}

# This name's format is made by its tokenizer's own `build_prompt`; it comes before that table.
BUILD_PROMPT_NAME = "chatglm2"

# A part of --model-name -> what is done to its answers, the text as decoded.
POSTPROCESSORS: dict[str, Callable[[str], str]] = {
    "xgen": lambda answer: answer.strip().replace("Assistant:", ""),
    "internlm": lambda answer: answer.split("<eoa>")[0],
}


def fill_template(template: str, row: Row) -> str:
    """`template` with {context} and {input} filled in one pass: braces in the row's text stay as
    they are.
    """
    fields: dict[str, str] = {"{context}": row["context"], "{input}": row["input"]}
    return re.sub(r"\{context\}|\{input\}", lambda match: fields[match.group()], template)


# --- Truncation and chat format -----------------------------------------------------------------


def truncate_middle(tokenizer: Tokenizer, text: str, limit: int) -> tuple[str, int]:
    """`text` cut to `limit` tokens by dropping its middle, and the number of tokens before the cut.

    Published behaviour, kept: both halves have int(limit / 2) tokens, so an odd limit loses one;
    they are decoded each by itself and joined with nothing between; the count includes the special
    tokens the tokenizer adds.
    """
    head, tail, full = _halves(tokenizer, text, limit)
    return head + tail, full


def _halves(tokenizer: Tokenizer, text: str, limit: int) -> tuple[str, str, int]:
    """The two ends that are kept of `text`, all of it and "" if it fits, and its tokens."""
    tokens = tokenizer.encode(text)
    if len(tokens) <= limit:
        return text, "", len(tokens)
    half = int(limit / 2)
    return tokenizer.decode(tokens[:half]), tokenizer.decode(tokens[-half:]), len(tokens)


# --chat-template auto as version 0.1 had it, for a run begun by that: a published entry of the
# tables came before the tokenizer's template. A later run's identity says TEMPLATE_FIRST.
TABLES_FIRST = "auto of 0.1"
TEMPLATE_FIRST = "template_first"


def chat_format_of(model_name: str) -> str:
    """The part of the name that chooses a chat format of the tables, "" where none does."""
    names = (*CHAT_FORMATS, BUILD_PROMPT_NAME, *PUBLISHED_FORMATS)
    return next((part for part in names if part in model_name), "")


def _table_entry(part: str) -> tuple[str, str] | None:
    return CHAT_FORMATS.get(part) or PUBLISHED_FORMATS.get(part)


def _is_published(part: str) -> bool:
    """Whether a part chooses what the published harness has; a user's copy of it is no other."""
    return part not in CHAT_FORMATS or CHAT_FORMATS[part] == PUBLISHED_FORMATS.get(part)


def format_overrides(model_name: str, mode: str = "published") -> dict[str, Json]:
    """What the tables here, which users edit, do for this model name: the entries that it takes,
    their hash, that of the think tags, and whether a template of the tokenizer would come first.

    A cleaner of a file for --formats may call what else stands there: that file's hash is with it.
    """
    chat = chat_format_of(model_name)
    cleaners = [part for part in POSTPROCESSORS if part in model_name]
    content = [_table_entry(chat), [_source_of(POSTPROCESSORS[part]) for part in cleaners]]
    digest = _hash_of(content)
    found: dict[str, Json] = {"chat_format": chat, "answer_cleaners": [*cleaners]}
    found |= {"sha256": digest, "think_tags": _hash_of(THINK_TAGS)}
    if any(getattr(POSTPROCESSORS[part], "__module__", "") != __name__ for part in cleaners):
        found["cleaners_file"] = user_tables.fingerprints().get("--formats")
    if mode == "auto" and chat and _is_published(chat):
        found[TEMPLATE_FIRST] = True
    return found


def _hash_of(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _source_of(function: Callable[[str], str]) -> str:
    """The function's source text; the name of one that has none, such as str.strip."""
    try:
        return inspect.getsource(function)
    except (TypeError, OSError):
        return str(getattr(function, "__qualname__", type(function).__qualname__))


def uses_native_chat(native_chat: bool, mode: str) -> bool:
    """Whether the prompt goes to a model's own `.chat()`, or a service's chat endpoint, where there
    is one.
    """
    return native_chat and mode in ("auto", "published", TABLES_FIRST)


class ChatFormat(NamedTuple):
    """What is put around a prompt, and why that."""

    kind: Literal["table", "build_prompt", "template", "none"]
    part: str  # of the model's name, for an entry of the tables
    why: str


def choose_chat_format(has_template: bool, model_name: str, mode: str) -> ChatFormat:
    """The format in force where the model has no `.chat()`, which comes before it.

    `mode`: auto (own entry, tokenizer's template, published entry, bare text), published (the same
    without the template), tokenizer, none or TABLES_FIRST. Raises UsageError for `tokenizer` where
    there is no template.
    """
    if mode == "tokenizer" and not has_template:
        raise UsageError(
            "--chat-template tokenizer: the model's tokenizer has no chat template; use auto or "
            "none"
        )
    part = "" if mode in ("tokenizer", "none") else chat_format_of(model_name)
    template = has_template and mode not in ("published", "none")
    named = f'"{part}" in utils.py, which the model name contains'
    if template and (not part or (mode == "auto" and _is_published(part))):
        over = f" (not that of {named}: --chat-template published takes it)" if part else ""
        return ChatFormat("template", part, f"the tokenizer's own template{over}")
    if part:
        kind: Literal["table", "build_prompt"] = "table" if _table_entry(part) else "build_prompt"
        has = "; the tokenizer has a template of its own" if has_template else ""
        return ChatFormat(kind, part, f"that of {named}{has}")
    why = "as --chat-template says" if mode == "none" else "neither tokenizer nor utils.py has one"
    return ChatFormat("none", "", f"none, {why}")


def format_chat(tokenizer: Tokenizer, prompt: str, model_name: str, mode: str) -> tuple[str, bool]:
    """`prompt` in the format that `choose_chat_format` chooses, and whether tokenising it adds
    special tokens.

    Raises UsageError as that does, and for a template that loses the prompt.
    """
    choice = choose_chat_format(tokenizer.has_chat_template, model_name, mode)
    if choice.kind == "build_prompt":
        return tokenizer.build_prompt(prompt), True
    if choice.kind == "template":
        formatted = tokenizer.apply_chat_template(prompt)
        if prompt.strip() not in formatted:
            raise UsageError(
                "the tokenizer's chat template does not give the prompt back whole: of "
                f"{len(prompt):,} characters it makes {len(formatted):,}; use --chat-template none"
            )
        return formatted, False
    before, after = _table_entry(choice.part) or ("", "")
    return before + prompt + after, True


@dataclass(frozen=True)
class PreparedPrompt:
    """A row as the backend gets it, with what its record tells of the cut."""

    prompt: Prompt
    prompt_tokens_full: int
    evidence_kept: bool | None
    depths: Depths | None = None
    cut: Span | None = None  # [start, end) in characters of the row's context; None: nothing is cut


def build_prompt(
    row: Row,
    template: str,
    budget: int,
    tokenizer: Tokenizer,
    limit: int,
    model_name: str,
    mode: str,
    native_chat: bool,
    key: str = "",
    context: str | None = None,
) -> PreparedPrompt:
    """One row made into a prompt of at most about `limit` tokens plus the chat format; `budget` new
    tokens may follow.

    `native_chat` tells that the loaded model has a `.chat()`, which the modes auto and published
    use. `context` stands in place of the row's, where a plugin made another of it.
    """
    shown: Row = row if context is None else {**row, "context": context}
    filled = fill_template(template, shown)
    head, tail, full = _halves(tokenizer, filled, limit)
    text = head + tail
    asked = fill_template(template, {**row, "context": ""})
    use_chat = uses_native_chat(native_chat, mode)
    formatted, add_special_tokens = (
        (text, True) if use_chat else format_chat(tokenizer, text, model_name, mode)
    )
    tokens = tokenizer.encode(formatted, add_special_tokens=add_special_tokens)
    if add_special_tokens and tokens and tokens[-1] == tokenizer.appended_eos:
        tokens = tokens[:-1]  # a model answers before the end of a text, not after it
    if tokenizer.bos is not None and len(tokens) > 1 and tokens[0] == tokens[1] == tokenizer.bos:
        tokens = tokens[1:]  # a named deviation: the published Mistral format doubled the BOS
    if not tokens:
        raise UsageError(f"{key}: the prompt is empty; expected at least one token")
    before, after = (fill_template(part, shown) for part in template.partition("{context}")[::2])
    prompt = Prompt(
        text=text,
        formatted=formatted,
        tokens=tokens,
        max_new_tokens=budget,
        native_chat=use_chat,
        key=key,
        after_context=after,
    )
    replaced = shown["context"] != row["context"]
    kept = evidence_kept(row, text, asked, truncated=full > limit or replaced)
    cut = None
    if full > limit:
        cut = positions.find_cut(filled, head, tail, (len(before), len(filled) - len(after)))
    passages = positions.find_passages(row)
    if replaced:
        depths = positions.depths_in_shown(passages, row["context"], shown["context"], cut)
        return PreparedPrompt(prompt, full, kept, depths)
    return PreparedPrompt(
        prompt, full, kept, positions.depths(passages, len(row["context"]), cut), cut
    )


def drop_long_text(prepared: PreparedPrompt) -> PreparedPrompt:
    """The same without its long text, for a prompt that has been handed over: counts, and how the
    prompt ends.
    """
    prompt = prepared.prompt
    light = replace(
        prompt, text="", formatted=prompt.formatted[-100:], tokens=range(len(prompt.tokens))
    )
    return replace(prepared, prompt=light)


def evidence_kept(row: Row, prompt: str, asked: str, *, truncated: bool) -> bool | None:
    """Whether the evidence is still in the prompt after the middle cut; None where the row does not
    tell, and where its context is empty, as in a closed book.

    Evidence is what the row's recorded offsets mark, all of it; without them its answer keywords,
    else its first answer, where they stand in the context verbatim. `asked` is the prompt without
    its context: a question that names the answer ("A or B?") is no evidence.
    """
    context = row["context"]
    if not context:
        return None
    if not truncated:
        return True
    offsets = row["offsets"]
    if offsets is not None and offsets["evidence"]:
        return all(context[start:end] in prompt for start, end in offsets["evidence"])
    for probe in (row["answer_keywords"], row["answers"][0]):
        if probe and probe.strip() and probe in context:
            return prompt.count(probe) > asked.count(probe)
    return None


# --- After generation ---------------------------------------------------------------------------

# What opens and closes the reasoning before an answer, by the models that write it so: Qwen and
# DeepSeek, Magistral, gpt-oss (its channels), Kimi, Seed-OSS, and others. --think-tags adds a pair.
THINK_TAGS: tuple[tuple[str, str], ...] = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
    ("◁think▷", "◁/think▷"),
    ("<seed:think>", "</seed:think>"),
    ("<reasoning>", "</reasoning>"),
)


def post_process(
    answer: str,
    model_name: str,
    think_tags: Sequence[tuple[str, str]] = THINK_TAGS,
    *,
    opened: bool = False,
) -> tuple[str, bool]:
    """The text to be scored, and whether the answer ended within its reasoning (then the text is
    empty).

    What stands before the last closing tag is cut off. With `opened` the prompt's chat format had
    opened it already.
    """
    if closed := reasoning.end(answer, think_tags):
        answer = answer[closed:].lstrip()
    elif opened or reasoning.opened_by(answer, think_tags) is not None:
        return "", True
    for part, clean in POSTPROCESSORS.items():
        if part in model_name:
            answer = clean(answer)
    return answer, False


def prompt_opens_thinking(
    formatted: str, think_tags: Sequence[tuple[str, str]] = THINK_TAGS
) -> bool:
    """Whether a prompt in its chat format ends by opening the reasoning block for the model."""
    return reasoning.is_opened(formatted, think_tags)

"""HOW a row becomes a prompt: template, truncation, chat format, post-processing. Edit CHAT_FORMATS for a new model.

    python prediction.py --model-path MODEL --model-name NAME --chat-template auto

The order of steps is the published harness's: fill the template, cut the middle, wrap in the chat format, tokenise.
"""

import ast
import hashlib
import inspect
import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import config
from backends import Prompt, Tokenizer
from data import Row
from errors import HarnessError
from files import cache_dir, write_atomic

VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. USER: ",  # FastChat's vicuna_v1.1 conversation
    " ASSISTANT:",
)
LLAMA2 = ("[INST]", "[/INST]\n\n")

# A part of --model-name (case matters, the first match wins) -> what stands before and after the prompt.
# To add a model whose tokenizer brings no chat template, add a line here.
CHAT_FORMATS: dict[str, tuple[str, str]] = {
    "BlueLM": ("[|Human|]:", "[|AI|]:"),
    "vicuna": VICUNA,
    "sft": VICUNA,
    "llama2": LLAMA2,
    "Llama-2": LLAMA2,
    "LLaMA": LLAMA2,
    "Mistral": ("<s>[INST] ", " [/INST]"),
    "internlm": ("<|User|>:", "<eoh>\n<|Bot|>:"),
}
# This name's format is made by its tokenizer's own `build_prompt`; it comes before the table.
BUILD_PROMPT_NAME = "chatglm2"

# A part of --model-name -> what is done to its answers, the text as decoded.
ANSWER_CLEANERS: dict[str, Callable[[str], str]] = {
    "xgen": lambda answer: answer.strip().replace("Assistant:", ""),
    "internlm": lambda answer: answer.split("<eoa>")[0],
}

CHAT_MODES = ("auto", "published", "tokenizer", "none")

OFFICIAL_URL = "https://raw.githubusercontent.com/infinigence/LVEval/25aebcb36acbbb8338712736cfdd31e06e236df5/config.py"
OFFICIAL_FILE_SHA256 = "7c278132c6cd744e3a57dc87947a20d23d66f6928b9b7f37b0d1bf42e43df8e6"
OFFICIAL_MAPPING_SHA256 = "5c74d1516a2a0f5a82e687f9d8375aa1dac6765881a09bd2fb5123433e2ac1e5"


# --- Prompt templates ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PromptSet:
    """The templates of a run: subset -> template, and the hash that names them."""

    templates: dict[str, str]

    @property
    def sha256(self) -> str:
        """The hash of the mapping, the same wherever it came from."""
        canonical = json.dumps(self.templates, ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def official(self) -> bool:
        """Whether these are the benchmark's own templates."""
        return self.sha256 == OFFICIAL_MAPPING_SHA256

    @property
    def name(self) -> str:
        """`official`, `builtin` (those of config.py) or `custom`, by what they are, not by where they came from."""
        return "official" if self.official else "builtin" if self.templates == config.DATASET_PROMPT else "custom"


def load_prompts(choice: str) -> PromptSet:
    """The templates of --prompts: `builtin`, `official`, or a .py or .json file with a literal DATASET_PROMPT.

    Raises HarnessError where the file is missing, is not literal, lacks a field, or (official) has another hash.
    """
    if choice == "builtin":
        return PromptSet(config.DATASET_PROMPT)
    if choice == "official":
        text = official_file(OFFICIAL_URL, OFFICIAL_FILE_SHA256)
        return PromptSet(parse_prompts(text, OFFICIAL_URL))
    path = Path(choice)
    if path.suffix not in (".py", ".json"):
        raise HarnessError(f'--prompts: found "{choice}", expected builtin, official or a path to a .py or .json file')
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise HarnessError(f"--prompts {choice}: cannot be read as UTF-8 text ({error})") from None
    return PromptSet(parse_prompts(text, choice))


def official_file(url: str, sha256: str) -> str:
    """The text of the official prompt file: from the cache, else downloaded once, its hash checked either way."""
    cached = cache_dir() / f"official-prompts-{sha256[:16]}.txt"
    if cached.is_file():
        kept = cached.read_bytes()
        if hashlib.sha256(kept).hexdigest() == sha256:
            return kept.decode()
    try:
        with urllib.request.urlopen(url, timeout=30) as reply:  # noqa: S310 - a constant https URL
            text: bytes = reply.read(1 << 20)
    except (urllib.error.URLError, OSError) as error:
        raise HarnessError(
            f"--prompts official: cannot download {url} ({error}); download the file yourself and pass its path as "
            "--prompts PATH, also together with --published (its hash marks the run as official all the same)"
        ) from None
    found = hashlib.sha256(text).hexdigest()
    if found != sha256:
        raise HarnessError(f"--prompts official: {url} has SHA-256 {found}, expected {sha256}; nothing was kept")
    write_atomic(cached, text.decode())
    return text.decode()


def parse_prompts(text: str, where: str) -> dict[str, str]:
    """The literal DATASET_PROMPT mapping in Python or JSON source `text`; parsed, never executed."""
    mapping: object = None
    if where.endswith(".json"):
        try:
            mapping = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise HarnessError(f"{where}: not JSON ({error})") from None
        if isinstance(mapping, dict) and "DATASET_PROMPT" in mapping:
            mapping = mapping["DATASET_PROMPT"]
    else:
        mapping = _literal_assignment(text, where)
    if not isinstance(mapping, dict) or not mapping:
        raise HarnessError(f"{where}: found no DATASET_PROMPT mapping; expected a literal subset -> template mapping")
    for subset, template in mapping.items():
        if not isinstance(subset, str) or not isinstance(template, str):
            raise HarnessError(f"{where}: DATASET_PROMPT[{subset!r}]: expected a string for a string")
        missing = [name for name in ("{context}", "{input}") if name not in template]
        if missing:
            raise HarnessError(f"{where}: DATASET_PROMPT[{subset!r}]: expected {' and '.join(missing)} in the template")
    return mapping


def _literal_assignment(text: str, where: str) -> object:
    """The value assigned to DATASET_PROMPT at the top level of Python source."""
    try:
        for statement in ast.parse(text).body:
            targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
            value = getattr(statement, "value", None)
            if value is not None and any(isinstance(t, ast.Name) and t.id == "DATASET_PROMPT" for t in targets):
                return ast.literal_eval(value)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise HarnessError(f"{where}: DATASET_PROMPT is no literal ({error}); code in it is never run") from None
    return None


def fill(template: str, row: Row) -> str:
    """`template` with {context} and {input} filled in one pass: braces in the row's text stay as they are."""
    fields: dict[str, str] = {"{context}": row["context"], "{input}": row["input"]}
    return re.sub(r"\{context\}|\{input\}", lambda match: fields[match.group()], template)


# --- Truncation and chat format --------------------------------------------------------------------------------------


def cut_middle(tokenizer: Tokenizer, text: str, limit: int) -> tuple[str, int]:
    """`text` cut to `limit` tokens by dropping its middle, and the number of tokens before the cut.

    Published behaviour, kept: both halves have int(limit / 2) tokens, so an odd limit loses one; they are decoded each
    by itself and joined with nothing between; the count includes the special tokens the tokenizer adds.
    """
    tokens = tokenizer.encode(text)
    if len(tokens) <= limit:
        return text, len(tokens)
    half = int(limit / 2)
    return tokenizer.decode(tokens[:half]) + tokenizer.decode(tokens[-half:]), len(tokens)


def chat_format_of(model_name: str) -> str:
    """The part of the name that chooses the published chat format, "" where none does."""
    return next((part for part in (BUILD_PROMPT_NAME, *CHAT_FORMATS) if part in model_name), "")


def table_entries(model_name: str) -> dict[str, str | list[str]]:
    """What the tables above, which users edit, do for this model name: the entries that it takes, and their hash."""
    chat = chat_format_of(model_name)
    cleaners = [part for part in ANSWER_CLEANERS if part in model_name]
    content = [CHAT_FORMATS.get(chat), [_source_of(ANSWER_CLEANERS[part]) for part in cleaners]]
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return {"chat_format": chat, "answer_cleaners": cleaners, "sha256": digest}


def _source_of(function: Callable[[str], str]) -> str:
    """The function's source text; the name of one that has none, such as str.strip."""
    try:
        return inspect.getsource(function)
    except (TypeError, OSError):
        return str(getattr(function, "__qualname__", type(function).__qualname__))


def uses_own_chat(own_chat: bool, mode: str) -> bool:
    """Whether the prompt goes to a model's own `.chat()`, or a service's chat endpoint, where there is one."""
    return own_chat and mode in ("auto", "published")


def format_chat(tokenizer: Tokenizer, prompt: str, model_name: str, mode: str) -> tuple[str, bool]:
    """`prompt` in the model's chat format, and whether tokenising it adds special tokens.

    `mode` is one of CHAT_MODES; a model's own `.chat()` is not handled here. Raises HarnessError for `tokenizer` where
    there is no template.
    """
    if mode == "none":
        return prompt, True
    if mode == "tokenizer":
        if not tokenizer.has_chat_template:
            raise HarnessError(
                "--chat-template tokenizer: the model's tokenizer has no chat template; use auto or none"
            )
        return tokenizer.apply_chat_template(prompt), False
    part = chat_format_of(model_name)
    if part == BUILD_PROMPT_NAME:
        return tokenizer.build_prompt(prompt), True
    if part:
        before, after = CHAT_FORMATS[part]
        return before + prompt + after, True
    if mode == "auto" and tokenizer.has_chat_template:
        return tokenizer.apply_chat_template(prompt), False
    return prompt, True


@dataclass(frozen=True)
class Prepared:
    """A row as the backend gets it, with what its record tells of the cut."""

    prompt: Prompt
    prompt_tokens_full: int
    evidence_kept: bool | None


def prepare(
    row: Row, template: str, budget: int, tokenizer: Tokenizer, limit: int, model_name: str, mode: str, own_chat: bool
) -> Prepared:
    """One row made into a prompt of at most about `limit` tokens plus the chat format; `budget` new tokens may follow.

    `own_chat` tells that the loaded model has a `.chat()`, which the modes auto and published use.
    """
    text, full = cut_middle(tokenizer, fill(template, row), limit)
    asked = fill(template, {**row, "context": ""})
    use_chat = uses_own_chat(own_chat, mode)
    formatted, add_special_tokens = (text, True) if use_chat else format_chat(tokenizer, text, model_name, mode)
    tokens = tokenizer.encode(formatted, add_special_tokens=add_special_tokens)
    if tokenizer.bos is not None and len(tokens) > 1 and tokens[0] == tokens[1] == tokenizer.bos:
        tokens = tokens[1:]  # a named deviation: the published Mistral format doubled the BOS
    prompt = Prompt(text=text, formatted=formatted, tokens=tokens, max_new_tokens=budget, own_chat=use_chat)
    return Prepared(prompt, full, evidence_kept(row, text, asked, truncated=full > limit))


def without_text(prepared: Prepared) -> Prepared:
    """The same without its long text, for a prompt that has been handed over: counts, and how the prompt ends."""
    prompt = prepared.prompt
    light = replace(prompt, text="", formatted=prompt.formatted[-100:], tokens=range(len(prompt.tokens)))
    return replace(prepared, prompt=light)


def evidence_kept(row: Row, prompt: str, asked: str, *, truncated: bool) -> bool | None:
    """Whether the evidence is still in the prompt after the middle cut; None where the row does not tell.

    Evidence is what the row's recorded offsets mark, all of it; without them its answer keywords, else its first
    answer, where they stand in the context verbatim. `asked` is the prompt without its context: a question that names
    the answer ("A or B?") is no evidence.
    """
    if not truncated:
        return True
    context = row["context"]
    offsets = row["offsets"]
    if offsets is not None and offsets["evidence"]:
        return all(context[start:end] in prompt for start, end in offsets["evidence"])
    for probe in (row["answer_keywords"], row["answers"][0]):
        if probe and probe.strip() and probe in context:
            return prompt.count(probe) > asked.count(probe)
    return None


# --- After generation ------------------------------------------------------------------------------------------------

THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"


def post_process(answer: str, model_name: str, *, reasoning_opened: bool = False) -> tuple[str, bool]:
    """The text to be scored, and whether the answer ended within its reasoning (then the text is empty).

    A `<think>…</think>` block is cut off. With `reasoning_opened` the prompt's chat format had opened it already.
    """
    _, closed, after = answer.rpartition(THINK_CLOSE)
    if closed:
        answer = after.lstrip()
    elif reasoning_opened or answer.lstrip().startswith(THINK_OPEN):
        return "", True
    for part, clean in ANSWER_CLEANERS.items():
        if part in model_name:
            answer = clean(answer)
    return answer, False


def opens_reasoning(formatted: str) -> bool:
    """Whether a prompt in its chat format ends by opening the reasoning block for the model."""
    return formatted.rstrip().endswith(THINK_OPEN)

"""The table of models in docs/engines.md: each line marked tiny is tried under its own options.

A line's model is built with random weights and small sizes, but with the class, window, positions,
chat template arguments and kind of files that the real one has: so an option that is missing,
misspelt or idle shows.
"""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from support import tiny_models

from lveval import config, utils
from lveval.backends import hf
from lveval.backends.base import EngineOptions, Prompt
from lveval.common.errors import UsageError
from lveval.options import RunOptions

MANUAL = (ROOT / "docs/engines.md").read_text(encoding="utf-8")
HEADING = "## Models and their commands\n"
COLUMNS = ["model", "class", "options", "chat format", "window", "GB", "tried"]
LONGEST_LIMIT = 1_000_000  # the manual: no prompt of LV-Eval is longer
PROMPT = "When was the lighthouse built?"

# These decide where a model is computed, or are on every line; any other option has an effect here.
PLACED_OR_COMMON = ("--model-max-len", "--gpus-per-worker", "--backend")


@dataclass(frozen=True)
class Line:
    """A line of the table."""

    model: str
    architecture: str
    words: list[str]  # the options as a shell passes them
    chat_format: str
    windows: list[int]  # the one to be used, and where the config tells another one, that too
    tried: str

    @property
    def name(self) -> str:
        """The name that a run of this model has where none is given."""
        return Path(self.model).name


def section(manual: str) -> str:
    """The manual's part about models."""
    assert manual.count(HEADING) == 1
    return manual.partition(HEADING)[2].partition("\n## ")[0]


def read_lines(manual: str) -> list[Line]:
    """Parse the table; what its block of shell assigns is filled in."""
    text = section(manual)
    blocks = "".join(re.findall(r"```bash\n(.*?)```", text, re.S))
    assigned = dict(word.split("=", 1) for word in shlex.split(blocks))
    rows = [
        [cell.strip() for cell in row.strip("| ").split(" | ")]
        for row in text.splitlines()
        if row.startswith("| ")
    ]
    assert rows[0] == COLUMNS and all(len(row) == len(COLUMNS) for row in rows), rows
    return [
        Line(
            model=model,
            architecture=architecture,
            words=[
                assigned[word[1:]] if word.startswith("$") else word
                for word in shlex.split(options.strip("`"))
            ],
            chat_format=chat_format,
            windows=[int(number.replace(",", "")) for number in re.findall(r"[\d,]+", window)],
            tried=tried,
        )
        for model, architecture, options, chat_format, window, _, tried in rows[1:]
    ]


LINES = read_lines(MANUAL)
TINY = [line for line in LINES if line.tried == "tiny"]


@dataclass(frozen=True)
class Shipped:
    """What a model's files on the Hub say that decides whether its options are right."""

    architecture: str
    config: Mapping[str, Any] = field(default_factory=dict)  # of config.json; None: not in it
    template: str | None = None  # "": none is shipped; None: one that reads no arguments
    pickled: bool = False


VICUNA = "lmsys/vicuna-7b-v1.5-16k"
MISTRAL = "mistralai/Mistral-Small-3.1-24B-Instruct-2503"
TOGETHER_CODE = "togethercomputer/LLaMA-2-7B-32K--modeling_flash_llama.LlamaForCausalLM"
SWITCHED = (
    "<|im_start|>user\n{{ messages[0].content }}<|im_end|>\n<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
)
EFFORT = (
    "Reasoning: {{ reasoning_effort or 'medium' }}\n{{ messages[0].content }}<|start|>assistant"
)
BUDGET = (
    "<seed:bos>user\n{{ messages[0].content }}<seed:eos><seed:bos>assistant\n"
    "{% if thinking_budget == 0 %}<seed:think></seed:think>{% endif %}"
)

SHIPPED: dict[str, Shipped] = {
    "meta-llama/Llama-2-7b-chat-hf": Shipped("LlamaForCausalLM", {"max_position_embeddings": 4096}),
    VICUNA: Shipped(
        "LlamaForCausalLM",
        {"max_position_embeddings": 4096, "rope_scaling": {"factor": 4.0, "type": "linear"}},
        template="",
        pickled=True,
    ),
    "togethercomputer/Llama-2-7B-32K-Instruct": Shipped(
        "LlamaForCausalLM",
        {
            "max_position_embeddings": 32768,
            "rope_scaling": {"factor": 8.0, "type": "linear"},
            "auto_map": {"AutoModelForCausalLM": TOGETHER_CODE},
        },
        template="",
        pickled=True,
    ),
    "lmsys/longchat-7b-v1.5-32k": Shipped(
        "LlamaForCausalLM",
        {"max_position_embeddings": 4096, "rope_scaling": {"factor": 8.0, "type": "linear"}},
        template="",
        pickled=True,
    ),
    "01-ai/Yi-6B-200K": Shipped(
        "LlamaForCausalLM", {"max_position_embeddings": 200000}, template=""
    ),
    "meta-llama/Llama-3.1-8B-Instruct": Shipped(
        "LlamaForCausalLM",
        {
            "max_position_embeddings": 131072,
            "rope_theta": 500000.0,
            "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}
            | {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
        },
    ),
    "meta-llama/Llama-4-Scout-17B-16E-Instruct": Shipped(
        "Llama4ForConditionalGeneration", {"max_position_embeddings": 10485760}
    ),
    "Qwen/Qwen2.5-7B-Instruct-1M": Shipped(
        "Qwen2ForCausalLM",
        {
            "max_position_embeddings": 1010000,
            "rope_theta": 10000000.0,
            "dual_chunk_attention_config": {"chunk_size": 262144, "local_size": 8192},
        },
    ),
    "Qwen/Qwen3-8B": Shipped(
        "Qwen3ForCausalLM",
        {"max_position_embeddings": 40960, "rope_theta": 1000000.0, "rope_scaling": None},
        template=SWITCHED,
    ),
    "Qwen/Qwen3-30B-A3B-Instruct-2507": Shipped(
        "Qwen3MoeForCausalLM", {"max_position_embeddings": 262144, "rope_theta": 10000000.0}
    ),
    "google/gemma-3-12b-it": Shipped(
        "Gemma3ForConditionalGeneration",
        {"max_position_embeddings": None, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}},
    ),
    MISTRAL: Shipped(
        "Mistral3ForConditionalGeneration",
        {"max_position_embeddings": 131072, "rope_theta": 1000000000.0},
    ),
    "microsoft/Phi-4-mini-instruct": Shipped(
        "Phi3ForCausalLM",
        {
            "max_position_embeddings": 131072,
            "original_max_position_embeddings": 4096,
            "partial_rotary_factor": 0.75,
            "rope_scaling": {"type": "longrope"}
            | {"short_factor": [1.0, 1.0, 1.0], "long_factor": [1.0, 16.0, 32.0]},
            "auto_map": {
                "AutoConfig": "configuration_phi3.Phi3Config",
                "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM",
            },
        },
    ),
    "zai-org/glm-4-9b-chat-1m-hf": Shipped(
        "GlmForCausalLM", {"max_position_embeddings": 1048576, "partial_rotary_factor": 0.5}
    ),
    "deepseek-ai/DeepSeek-V3-0324": Shipped(
        "DeepseekV3ForCausalLM",
        {
            "max_position_embeddings": 163840,
            "rope_theta": 10000,
            "rope_scaling": {"type": "yarn", "factor": 40, "beta_fast": 32, "beta_slow": 1}
            | {"mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096},
            "auto_map": {
                "AutoConfig": "configuration_deepseek.DeepseekV3Config",
                "AutoModelForCausalLM": "modeling_deepseek.DeepseekV3ForCausalLM",
            },
        },
    ),
    "openai/gpt-oss-20b": Shipped(
        "GptOssForCausalLM",
        {
            "max_position_embeddings": 131072,
            "rope_theta": 150000,
            "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0}
            | {"beta_slow": 1.0, "truncate": False, "original_max_position_embeddings": 4096},
        },
        template=EFFORT,
    ),
    "ByteDance-Seed/Seed-OSS-36B-Instruct": Shipped(
        "SeedOssForCausalLM",
        {
            "max_position_embeddings": 524288,
            "rope_theta": 10000000.0,
            "rope_scaling": {"rope_type": "default"},
        },
        template=BUDGET,
    ),
}


def build(line: Line, folder: Path, tokenizer_of: Path) -> Path:
    """Write the line's model with random weights, its files as the Hub has them."""
    shipped = SHIPPED[line.model]
    kinds = {name: kind for kind, (name, _) in reversed(tiny_models.KINDS.items())}
    whole = tiny_models.build(kinds[line.architecture], folder / "whole", tokenizer_of)

    def as_shipped(data: dict[str, Any]) -> None:
        place = data.get("text_config", data)
        if {"rope_theta", "rope_scaling"} & shipped.config.keys():
            place.pop("rope_parameters", None)  # the spelling of transformers 5, of no use then
        place.update(shipped.config)
        for name in [name for name, value in shipped.config.items() if value is None]:
            del place[name]

    target = tiny_models.edited(whole, folder / line.name, "config.json", as_shipped)
    if shipped.template == "":
        (target / "chat_template.jinja").unlink()
    elif shipped.template:
        (target / "chat_template.jinja").write_text(shipped.template)
    if shipped.pickled:
        import torch
        from safetensors.torch import load_file

        torch.save(load_file(target / "model.safetensors"), target / "pytorch_model.bin")
        (target / "model.safetensors").unlink()
    return target


def parsed(line: Line, words: list[str], path: Path | str) -> tuple[RunOptions, EngineOptions]:
    """Read the line's command as prediction.py does."""
    options = RunOptions.parse(["--model-path", str(path), "--model-name", line.name, *words])
    engine = replace(
        options.engine_options(),
        max_new_tokens=max(config.DATASET_MAXGEN.values()),
        think_tags=utils.THINK_TAGS,
    )
    return options, engine


def formatted(options: RunOptions, engine: EngineOptions) -> str:
    """The prompt that a model gets; raises UsageError where a run would be refused."""
    hf.settings_fingerprint(engine)
    tokenizer, mode = hf.tokenizer(engine), options.chat_template
    return utils.format_chat(tokenizer, PROMPT, options.model_name, mode)[0]


def expected(line: Line, engine: EngineOptions) -> str:
    """The prompt in the format that the line names."""
    if line.chat_format == "bare":
        return PROMPT
    if line.chat_format == "template":
        return str(hf.tokenizer(engine).apply_chat_template(PROMPT))
    before, after = utils.PUBLISHED_FORMATS[line.chat_format.strip("`")]
    return before + PROMPT + after


def option_groups(words: list[str]) -> list[list[str]]:
    """Each option with its values."""
    groups: list[list[str]] = []
    for word in words:
        if word.startswith("--"):
            groups.append([])
        groups[-1].append(word)
    return groups


def idle_options(line: Line, folder: Path) -> list[str]:
    """The options of a line without which its run would be the same."""
    found, idle = formatted(*parsed(line, line.words, folder)), []
    for group in option_groups(line.words):
        rest = [word for other in option_groups(line.words) if other != group for word in other]
        try:
            without = formatted(*parsed(line, rest, folder))
        except UsageError as error:
            without = str(error)
        if group[0] not in PLACED_OR_COMMON and without == found:
            idle.append(group[0])
    return idle


def try_line(line: Line, folder: Path, tokenizer_of: Path) -> None:
    """Build, load and ask the line's model; raises where the line is wrong."""
    assert line.architecture == SHIPPED[line.model].architecture
    model = build(line, folder, tokenizer_of)
    options, settings = parsed(line, line.words, model)
    text = formatted(options, settings)
    assert text == expected(line, settings)
    assert (text == PROMPT) == (line.chat_format == "bare")
    assert not utils.prompt_opens_thinking(text)
    assert idle_options(line, model) == []

    engine = hf.load(settings)
    loaded = type(engine._model).__name__
    # Llama 4 has a class for its text alone, which is used.
    text_class = line.architecture.replace("ForConditionalGeneration", "ForCausalLM")
    assert loaded in (line.architecture, text_class)
    assert line.windows[-1] <= engine._window <= 1.03 * line.windows[-1]
    special = line.chat_format != "template"
    tokens = engine.tokenizer.encode(text, add_special_tokens=special)
    ((_, answer),) = engine.generate([Prompt(PROMPT, text, tokens, 4, native_chat=False)])
    assert answer.status in ("ok", "length") and 1 <= (answer.output_tokens or 0) <= 4, answer


def by_model(line: Line) -> str:
    return line.model


def test_the_table_has_the_papers_ten_and_twelve_of_today() -> None:
    assert len(LINES) == len({line.model for line in LINES}) == 22
    assert {line.model for line in TINY} == SHIPPED.keys()


@pytest.mark.parametrize("line", LINES, ids=by_model)
def test_a_line_is_a_command_and_says_why_it_is_untried(line: Line) -> None:
    import transformers

    options, engine = parsed(line, line.words, line.model)
    assert engine.model_max_len == min(line.windows[0] - 500, LONGEST_LIMIT)
    templated = line.chat_format == "template"
    part = utils.choose_chat_format(templated, line.name, options.chat_template).part
    by_name = "" if templated else part
    others = ("bare", "template", "service", "`.chat()`")
    assert line.chat_format in ([f"`{by_name}`"] if by_name else others)
    assert (line.chat_format == "service") == (options.backend == "openai")
    assert line.chat_format != "`.chat()`" or options.trust_remote_code
    if line.tried == "tiny":
        assert options.backend in ("hf", "vllm")
        return
    assert line.tried.startswith("untried: ")
    known = hasattr(transformers, line.architecture)
    assert ("no class in transformers" in line.tried) == (not known and line.architecture != "–")
    assert known or options.trust_remote_code or options.backend == "openai"


@pytest.mark.parametrize("line", TINY, ids=by_model)
def test_a_line_marked_tiny_answers(line: Line, model_path: Path, tmp_path: Path) -> None:
    try_line(line, tmp_path, model_path)


@pytest.mark.parametrize(
    ("model", "right", "wrong", "message"),
    [
        ("Qwen/Qwen3-8B", "Qwen3ForCausalLM", "Qwen2ForCausalLM", "Qwen2ForCausalLM"),
        ("Qwen/Qwen3-8B", ' --hf-overrides "$YARN"', "", "window is 40960"),
        ("Qwen/Qwen3-8B", "$NO_THINKING", "$SHORT_THINKING", "has no reasoning_effort"),
        ("Qwen/Qwen3-8B", "| template |", "| bare |", "im_start"),
        ("Qwen/Qwen3-8B", "--hf-overrides", "--trust-remote-code --hf-overrides", "trust-remote"),
        (VICUNA, "window=16384", "window=4096", "window is 4096"),
        (VICUNA, " --allow-pickle", "", "pickle"),
        (MISTRAL, "130572", "130572 --chat-template published", r"\[INST\]"),
        ("openai/gpt-oss-20b", "| 131,072 |", "| 65,536 |", "131072 <= "),
    ],
)
def test_a_wrong_line_is_seen(
    model: str, right: str, wrong: str, message: str, model_path: Path, tmp_path: Path
) -> None:
    found = next(row for row in MANUAL.splitlines() if row.startswith(f"| {model} |"))
    assert right in found
    changed = read_lines(MANUAL.replace(found, found.replace(right, wrong)))
    with pytest.raises((AssertionError, UsageError), match=message):
        try_line(next(line for line in changed if line.model == model), tmp_path, model_path)


def test_a_scaling_without_the_trained_window_is_seen(model_path: Path, tmp_path: Path) -> None:
    """Qwen3's config.json tells 40,960, its card scales from 32,768."""
    line = next(line for line in TINY if line.model == "Qwen/Qwen3-8B")
    trained = ', "original_max_position_embeddings": 32768'
    words = [word.replace(trained, "") for word in line.words]
    assert words != line.words
    with pytest.raises(AssertionError, match="163840 <= "):
        try_line(replace(line, words=words), tmp_path, model_path)

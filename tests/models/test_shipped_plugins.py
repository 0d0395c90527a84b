"""The plugins that come along: they keep what was asked, are part of the run, and can be off."""

import importlib.util
import json
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, in_process, lines
from support.backends_parts import options
from support.tiny_models import build

from lveval.backends import hf, plugins
from lveval.backends.base import EngineOptions, Generation, Prompt
from lveval.common.errors import UsageError

KVPRESS = ROOT / "plugins/kvpress_press.py"
ATTENTION = ROOT / "plugins/registered_attention.py"
STREAMING = ROOT / "plugins/streaming_window.py"

needs_kvpress = pytest.mark.skipif(
    importlib.util.find_spec("kvpress") is None,
    reason="the package kvpress is not installed; `make setup` installs it",
)

# File, arguments, others, arguments under which it changes nothing, the attention it compares with.
SHIPPED = [
    pytest.param(
        KVPRESS,
        {"press": "SnapKVPress", "compression_ratio": 0.5, "window_size": 16},
        {"press": "SnapKVPress", "compression_ratio": 0.25, "window_size": 16},
        {"press": "SnapKVPress", "compression_ratio": 0, "window_size": 16},
        "sdpa",
        marks=needs_kvpress,
        id="kvpress",
    ),
    pytest.param(ATTENTION, {"k": 8}, {"k": 9}, {"k": 10_000}, "eager", id="attention"),
    pytest.param(
        STREAMING,
        {"sinks": 2, "window": 16},
        {"sinks": 3, "window": 16},
        {"sinks": 0, "window": 10_000},
        "sdpa",
        id="streaming",
    ),
]
PRESSES = [
    *("CURPress", "CapPress", "CompactorPress", "ExpectedAttentionPress", "KeyDiffPress"),
    *("KnormPress", "LagKVPress", "LeverageScorePress", "NonCausalAttnPress"),
    *("ObservedAttentionPress", "PyramidKVPress", "RandomPress", "SnapKVPress"),
    *("StreamingLLMPress", "TOVAPress"),
]
Arguments = dict[str, Any]
each_plugin = pytest.mark.parametrize(("plugin", "given", "other", "off", "attention"), SHIPPED)


def chosen(plugin: Path, given: Arguments) -> EngineOptions:
    found = ((str(plugin), plugins.plugin_hash(str(plugin))),)
    return options(None, plugins=found, plugin_args=given)


def loaded(
    model: Path,
    plugin: Path | None = None,
    given: Arguments | None = None,
    **changes: Any,  # noqa: ANN401
) -> hf.HFEngine:
    plain = options(None) if plugin is None else chosen(plugin, given or {})
    return hf.load(replace(plain, model_path=str(model), model_max_len=2000, **changes))


def asked(engine: hf.HFEngine, budget: int = 12) -> Prompt:
    """A context of a few hundred tokens with the answer in its middle, then the question."""
    half = " ".join(f"Ship {number} left the quay at dawn." for number in range(20))
    question = "\n\nQuestion: When was the lighthouse built?\nAnswer:"
    text = f"{half} The lighthouse was built in 1874 by Orla Venn. {half}{question}"
    if engine.tokenizer.has_chat_template:
        text = engine.tokenizer.apply_chat_template(text)
    tokens = engine.tokenizer.encode(text, add_special_tokens=False)
    return Prompt(text, text, tokens, budget, after_context=question)


def answer(engine: hf.HFEngine, budget: int = 12) -> Generation:
    ((_, found),) = engine.generate([asked(engine, budget)])
    return found


def context_tokens(engine: hf.HFEngine) -> int:
    return plugins.question_start(asked(engine), engine.tokenizer)


def run(model: Path, data_path: Path, output: Path, *words: str | Path) -> str:
    found = in_process(
        "prediction.py",
        *("--model-path", model, "--model-name", "run", "--model-max-len", "300"),
        *("--data-path", data_path, "--output-dir", output, "--single-process"),
        *("--datasets", "cmrc_mixup", "--lengths", "1k", *words),
    )
    return f"{found.returncode} {found.stderr}"


def recorded(output: Path) -> tuple[bytes, list[bytes]]:
    """The exported file, and the lines of the store, which stand there as they became ready."""
    (store,) = (output / "run/rows").glob("*.jsonl")
    exported = (output / "run/cmrc_mixup_1k.jsonl").read_bytes()
    return exported, sorted(store.read_bytes().splitlines())


@each_plugin
def test_an_interrupted_run_goes_on_to_the_same_bytes_and_mixes_with_no_other(
    tiny_model: Path,
    data_path: Path,
    tmp_path: Path,
    plugin: Path,
    given: Arguments,
    other: Arguments,
    off: Arguments,
    attention: str,
) -> None:
    words = ("--plugin", plugin, "--plugin-args", json.dumps(given))
    assert run(tiny_model, data_path, tmp_path / "at_once", *words, "--limit", "3")[0] == "0"
    for limit in ("1", "3"):
        assert run(tiny_model, data_path, tmp_path / "twice", *words, "--limit", limit)[0] == "0"
    assert recorded(tmp_path / "twice") == recorded(tmp_path / "at_once")
    assert all(record["measures"] for record in lines(tmp_path / "twice/run/cmrc_mixup_1k.jsonl"))
    for refused in ((*words[:3], json.dumps(other)), ()):
        said = run(tiny_model, data_path, tmp_path / "twice", *refused, "--limit", "3")
        assert said.startswith("4") and "given.plugins" in said
    assert recorded(tmp_path / "twice") == recorded(tmp_path / "at_once")


@each_plugin
def test_one_that_changes_nothing_gives_the_dense_answers_of_a_run(
    tiny_model: Path,
    data_path: Path,
    tmp_path: Path,
    plugin: Path,
    given: Arguments,
    other: Arguments,
    off: Arguments,
    attention: str,
) -> None:
    dense = ("--attn", attention, "--limit", "3")
    assert run(tiny_model, data_path, tmp_path / "dense", *dense)[0] == "0"
    for name, arguments in (("off", off), ("on", given)):
        words = ("--plugin", plugin, "--plugin-args", json.dumps(arguments))
        assert run(tiny_model, data_path, tmp_path / name, *words, "--limit", "3")[0] == "0"
    found = {
        name: [row["pred"] for row in lines(tmp_path / name / "run/cmrc_mixup_1k.jsonl")]
        for name in ("dense", "off", "on")
    }
    assert found["off"] == found["dense"]
    assert found["on"] != found["dense"]


@each_plugin
def test_one_that_changes_nothing_gives_the_dense_answer_of_a_real_model(
    model_path: Path,
    plugin: Path,
    given: Arguments,
    other: Arguments,
    off: Arguments,
    attention: str,
) -> None:
    dense = answer(loaded(model_path, attn_implementation=attention))
    found = answer(loaded(model_path, plugin, off))
    assert "1874" in dense.text
    assert (found.text, found.output_tokens) == (dense.text, dense.output_tokens)
    assert (found.measures.get("kept") or found.measures["density"]) == 1.0


@needs_kvpress
@pytest.mark.parametrize("press", PRESSES)
def test_each_press_keeps_the_share_that_was_asked(tiny_model: Path, press: str) -> None:
    attention = "eager" if press == "ObservedAttentionPress" else "sdpa"
    dense = answer(loaded(tiny_model))
    for ratio in (0, 0.25, 0.75):
        given = {"press": press, "compression_ratio": ratio}
        engine = loaded(tiny_model, KVPRESS, given, attn_implementation=attention)
        first, again = answer(engine), answer(engine)
        assert first == again, "a press that draws must draw the same for the same row"
        assert first.status == "length", first.error
        context = context_tokens(engine)
        # A token cannot be kept in part: presses round down, a layer's budget to the nearest.
        assert abs(float(str(first.measures["cache_tokens"])) - (1 - ratio) * context) <= 1
        assert first.measures["kept"] == pytest.approx(1 - ratio, abs=1 / context)
        assert ratio or first.text == dense.text


@needs_kvpress
def test_the_presses_offered_are_the_ones_tested() -> None:
    with pytest.raises(UsageError, match="no press 'AdaKVPress'; expected one of ") as refused:
        plugins.load_plugins(chosen(KVPRESS, {"press": "AdaKVPress"}))
    assert refused.value.message.split("expected one of ")[1] == ", ".join(PRESSES)


@needs_kvpress
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"compression_ratio": 1.5}, "KVPress: AssertionError: Compression ratio must be"),
        ({"windows": 3}, "unexpected keyword argument 'windows'"),
    ],
)
def test_what_a_press_does_not_take_is_refused(given: Arguments, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plugins.load_plugins(chosen(KVPRESS, given))


def test_without_kvpress_the_sentence_has_the_pip_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "kvpress", None)
    plugin = Path(shutil.copy(KVPRESS, tmp_path))  # one that no other test has loaded
    with pytest.raises(UsageError, match="run: pip install --no-deps kvpress==") as refused:
        plugins.load_plugins(chosen(plugin, {}))
    pinned = (ROOT / "constraints.txt").read_text().splitlines()
    assert set(re.findall(r"\S+==\S+", refused.value.message)) <= set(pinned)


@pytest.mark.parametrize("k", [1, 16, 100])
def test_top_k_attention_keeps_k_keys_of_each_query(tiny_model: Path, k: int) -> None:
    engine = loaded(tiny_model, ATTENTION, {"k": k})
    found = answer(engine)
    length = len(asked(engine).tokens) + int(str(found.output_tokens)) - 1
    # Query number n sees n keys. Exact: a tie is broken, not kept.
    kept = sum(min(k, seen) for seen in range(1, length + 1))
    assert found.measures == {"density": kept / (length * (length + 1) // 2)}


@pytest.mark.parametrize("kind", ["sliding window", "mixed windows", "latent attention"])
def test_top_k_attention_leaves_a_models_own_windows(
    kind: str, model_path: Path, tmp_path: Path
) -> None:
    model = build(kind, tmp_path / "model", model_path)
    dense = answer(loaded(model, attn_implementation="eager"))
    found = answer(loaded(model, ATTENTION, {"k": 10_000}))
    assert (found.text, found.status) == (dense.text, dense.status), found.error
    assert found.measures == {"density": 1.0}


def test_top_k_attention_refuses_scores_that_it_does_not_know(
    model_path: Path, tmp_path: Path
) -> None:
    model = build("sinks", tmp_path / "model", model_path)
    found = answer(loaded(model, ATTENTION, {"k": 10_000}))
    assert found.status == "error" and "knows no s_aux of this model" in found.error


@pytest.mark.parametrize(("sinks", "window"), [(0, 1), (4, 32), (8, 200)])
def test_the_window_keeps_what_was_asked_to_the_end(
    tiny_model: Path, sinks: int, window: int
) -> None:
    engine = loaded(tiny_model, STREAMING, {"sinks": sinks, "window": window})
    context = context_tokens(engine)
    assert answer(engine).measures == {
        "cache_tokens": sinks + window,
        "kept": (sinks + window) / context,
        "cache_tokens_at_end": sinks + window,
    }


def sharpen(engine: hf.HFEngine) -> None:
    """Have a random model's answers depend on what it attends to, and where that stands."""
    import torch

    with torch.no_grad():
        for name, weight in engine._model.named_parameters():
            if "self_attn" in name:
                weight.mul_(10)


def by_a_mask(
    engine: hf.HFEngine, prompt: Prompt, sees: Callable[[int, int], bool]
) -> Sequence[int]:
    """Decode without a cache: what a token may not see of the text is masked, nothing dropped."""
    import torch

    tokens = [int(token) for token in prompt.tokens]
    for _ in range(prompt.max_new_tokens):
        mask = torch.tensor([[sees(a, b) for b in range(len(tokens))] for a in range(len(tokens))])
        with torch.inference_mode():
            ids = torch.tensor([tokens])
            logits = engine._model(ids, attention_mask=mask[None, None], use_cache=False).logits
        tokens.append(int(logits[0, -1].argmax()))
    return tokens[len(prompt.tokens) :]


@pytest.mark.parametrize(
    ("plugin", "given", "sinks", "window", "moves"),
    [
        (STREAMING, {"sinks": 4, "window": 32}, 4, 32, True),
        pytest.param(
            KVPRESS,
            {"press": "StreamingLLMPress", "compression_ratio": 0.75, "n_sink": 4},
            *(4, None, False),
            marks=needs_kvpress,
        ),
    ],
)
def test_dropping_is_masking_at_unchanged_positions(
    tiny_model: Path, plugin: Path, given: Arguments, sinks: int, window: int | None, moves: bool
) -> None:
    engine = loaded(tiny_model, plugin, given)
    sharpen(engine)
    prompt, context = asked(engine), context_tokens(engine)
    found = answer(engine)
    left = window or int(float(str(found.measures["cache_tokens"]))) - sinks

    def sees(query: int, key: int) -> bool:
        # The context was read whole; the question is one block; then the window moves, or grows.
        first = context - left
        if query < context:
            first = 0
        elif moves and query >= len(prompt.tokens):
            first = query - left
        return key <= query and (key < sinks or key >= first)

    expected = by_a_mask(engine, prompt, sees)
    assert found.text == engine.tokenizer.decode_answer(list(expected))
    assert expected != by_a_mask(engine, prompt, lambda query, key: key <= query)


@pytest.mark.parametrize(
    ("plugin", "given"),
    [
        (STREAMING, {"sinks": 0, "window": 10_000}),
        pytest.param(KVPRESS, {"press": "KnormPress", "compression_ratio": 0}, marks=needs_kvpress),
    ],
)
def test_settings_of_greedy_decoding_act_with_a_plugin_too(
    tiny_model: Path, plugin: Path, given: Arguments
) -> None:
    settings: Arguments = {"generate_args": {"repetition_penalty": 3.0, "no_repeat_ngram_size": 1}}
    plain, dense = (
        answer(loaded(tiny_model), budget=40),
        answer(loaded(tiny_model, **settings), budget=40),
    )
    found = answer(loaded(tiny_model, plugin, given, **settings), budget=40)
    assert plain.text != dense.text == found.text


@pytest.mark.parametrize(
    ("plugin", "given"), [(STREAMING, {}), pytest.param(KVPRESS, {}, marks=needs_kvpress)]
)
@pytest.mark.parametrize("kind", ["sliding window", "mixed windows", "state space", "hybrid"])
def test_a_cache_that_is_not_of_all_tokens_is_refused(
    kind: str, plugin: Path, given: Arguments, model_path: Path, tmp_path: Path
) -> None:
    model = build(kind, tmp_path / "model", model_path)
    with pytest.raises(UsageError, match="expected a model with full attention in each layer"):
        loaded(model, plugin, given)


@pytest.mark.parametrize(
    ("plugin", "given", "message"),
    [
        (STREAMING, {"window": 0}, "StreamingWindow: expected sinks >= 0 and window >= 1; found 4"),
        (ATTENTION, {"k": 0}, "TopKAttention: expected k >= 1; found 0"),
    ],
)
def test_arguments_that_make_no_sense_are_one_sentence(
    plugin: Path, given: Arguments, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        plugins.load_plugins(chosen(plugin, given))


def test_a_prompt_without_question_leaves_a_token_to_begin_with(tiny_model: Path) -> None:
    engine = loaded(tiny_model, STREAMING, {"sinks": 2, "window": 8})
    prompt = Prompt("Ship 1 left.", "Ship 1 left.", engine.tokenizer.encode("Ship 1 left."), 4)
    ((_, found),) = engine.generate([prompt])
    assert (found.status, found.output_tokens) == ("length", 4), found.error

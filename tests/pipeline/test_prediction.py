"""rows → answers: options, selection, resuming, refusals. Run as a user runs it."""

import gzip
import subprocess
from pathlib import Path

import pytest
from conftest import in_process, lines, row, script, write_data
from support.prediction_parts import SELECTION

from lveval import config
from lveval.options import RunOptions

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

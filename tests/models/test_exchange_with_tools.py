"""What other tools make of exports, of a workload and of CITATION.cff, and a run of its prompts.

    LVEVAL_TEST_TOOLS=/tools/bin:/lm_eval/bin:/vllm/bin pytest tests/models/test_exchange_with_tools.py

The tools need environments of their own (Every Eval Ever a Python 3.12): LVEVAL_TEST_TOOLS names
their `bin`; what is not found is skipped, with what to install.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, in_process, lines, row, script, write_data

FOLDERS = [Path(folder) for folder in os.environ.get("LVEVAL_TEST_TOOLS", "").split(":") if folder]
FILE = "hotpotwikiqa_mixup_1k"
READ_SAMPLES = """
import json, sys
from transformers import AutoTokenizer
from vllm.benchmarks.datasets import CustomDataset
tokenizer = AutoTokenizer.from_pretrained(sys.argv[2])
requests = CustomDataset(dataset_path=sys.argv[1], disable_shuffle=True).sample(
    tokenizer=tokenizer, num_requests=0, output_len=-1, skip_chat_template=True)
print(json.dumps([[each.prompt_len, each.expected_output_len] for each in requests]))
"""


def tool(name: str, package: str) -> Path:
    """A command of a tool; the test is skipped where there is none."""
    for folder in FOLDERS:
        if (folder / name).is_file():
            return folder / name
    pytest.skip(f"no {name}: pip install {package} elsewhere, its bin into LVEVAL_TEST_TOOLS")


def run_tool(*words: str | Path, cwd: Path) -> str:
    ended = subprocess.run(
        [str(word) for word in words], cwd=cwd, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def run(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real model's run, of English and Chinese rows, and its workload beside it."""
    folder = tmp_path_factory.mktemp("exchange")
    write_data(folder / "data", FILE, [row(number=number, words=30) for number in range(3)])
    write_data(folder / "data", "cmrc_mixup_1k", [row("cmrc_mixup", 0, words=30)])
    command = (
        "prediction.py", "--model-path", model_path, "--model-name", "run", "--single-process",
        "--data-path", folder / "data", "--output-dir", folder, "--model-max-len", "80",
        "--datasets", "hotpotwikiqa_mixup", "cmrc_mixup", "--lengths", "1k",
    )  # fmt: skip
    for more in ((), ("--export-prompts", folder / "workload.jsonl")):
        ended = script(*command, *more)
        assert ended.returncode == 0, ended.stderr
    return folder / "run"


def export(run: Path, form: str, folder: Path) -> None:
    words = ("--format", form, "--model-id", "HuggingFaceTB/SmolLM2-135M-Instruct", "--output")
    found = in_process(
        "-m", "lveval", "export", run, *words, folder, "--data-path", run.parent / "data"
    )
    assert found.returncode == 0, found.stderr


def test_every_eval_ever_takes_its_export_without_a_warning(run: Path, tmp_path: Path) -> None:
    command = tool("every_eval_ever", "every_eval_ever")
    export(run, "every-eval-ever", tmp_path)
    told = json.loads(
        run_tool(command, "validate", "--format", "json", "data/*/*/*/*.json*", cwd=tmp_path)
    )
    assert [each["file_type"] for each in told] == ["aggregate", "instance"]
    assert told[1]["line_count"] == 3 * 4
    assert all(each["valid"] and not each["warnings"] for each in told), told


def test_every_eval_ever_takes_the_export_for_lm_eval_as_lm_evals(
    run: Path, tmp_path: Path
) -> None:
    command = tool("every_eval_ever", "every_eval_ever")
    export(run, "lm-eval", tmp_path / "exported")
    run_tool(
        command, "convert", "lm_eval", "--log_path", next((tmp_path / "exported").iterdir()),
        "--output_dir", tmp_path / "data", "--source_organization_name", "us",
        "--evaluator_relationship", "other", "--include_samples", cwd=tmp_path,
    )  # fmt: skip
    told = json.loads(
        run_tool(command, "validate", "--format", "json", "data/*/*/*/*.json*", cwd=tmp_path)
    )
    assert len(told) == 4 and all(each["valid"] for each in told), told
    assert sum(each["line_count"] for each in told) == 3 * 4


def test_lm_eval_prints_the_table_of_its_export(run: Path, tmp_path: Path) -> None:
    command = tool("lm_eval", "lm_eval")
    export(run, "lm-eval", tmp_path)
    (results,) = tmp_path.glob("*/results_*.json")
    code = "import json, sys; from lm_eval.utils import make_table; print(make_table(json.load(open(sys.argv[1]))))"
    table = run_tool(command.with_name("python"), "-c", code, results, cwd=tmp_path)
    score = json.loads((results).read_text())["results"][f"lveval_{FILE}"]["lveval_recall,none"]
    assert f"lveval_{FILE}" in table and f"{score:.4f}" in table


def test_the_workload_has_the_prompts_that_were_answered(run: Path, model_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_path)
    workload = lines(run.parent / "workload.jsonl")
    records = [
        record for path in (FILE, "cmrc_mixup_1k") for record in lines(run / f"{path}.jsonl")
    ]
    counts = [len(tokenizer(str(line["prompt"]))["input_ids"]) for line in workload]
    assert counts == [record["prompt_tokens"] for record in records]
    assert any(int(str(r["prompt_tokens_full"])) > 80 for r in records)  # it was cut


def test_the_citation_is_valid() -> None:
    command = tool("cffconvert", "cffconvert")
    assert "are valid" in run_tool(command, "--validate", "-i", ROOT / "CITATION.cff", cwd=ROOT)


def test_vllms_bench_reads_the_workload(run: Path, model_path: Path) -> None:
    python = tool("vllm", "vllm").with_name("python")
    words = (python, "-c", READ_SAMPLES, run.parent / "workload.jsonl", model_path)
    found = json.loads(run_tool(*words, cwd=run).splitlines()[-1])
    records = [
        record for path in (FILE, "cmrc_mixup_1k") for record in lines(run / f"{path}.jsonl")
    ]
    assert found == [[record["prompt_tokens"], 64] for record in records]

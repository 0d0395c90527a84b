"""What tests share: the embedded model, a private cache, and small data files."""

import importlib.util
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from lveval import cli, evaluation, prediction
from lveval.common import logs
from lveval.common.errors import LVEvalError, ending
from lveval.common.text import printable

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "models" / "SmolLM2-135M-Instruct"

# Under nohup and cron these are ignored, which children would inherit; here they are to work.
signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)  # by this process still

# Folders of the tests that `make test` leaves to `make test-all`.
SLOW_FOLDERS = ("faults", "cluster", "models", "browser", "statistics")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests in a slow folder are marked so; `-m "not slow"` is the quick tier."""
    for item in items:
        if item.path.relative_to(ROOT / "tests").parts[0] in SLOW_FOLDERS:
            item.add_marker("slow")


# In the quick tier a test that takes longer fails, so that the tier stays quick.
BUDGET_SECONDS = 2.0
SLACK = 1.5  # two tests beside each other slow each other
# On a slower machine it is this many starts of a Python that imports numpy (0.2 s on a fast one).
BUDGET_STARTS = 20
TORCH_SECONDS = 6.0  # importing it, which falls to the first test of a process that needs it
# What is worth more, and why.
SLOW_WITH_REASON = {
    "test_a_missing_package_is_one_sentence_with_the_pip_line": "a command that imports torch",
    "test_a_script_passes_odd_arguments_through_untouched": "a script of two commands",
    "test_what_never_reached_the_service_is_not_out": "several starts against a real server",
    "test_rows_that_are_out_are_collected_whatever_is_left_to_spend": "several starts, a server",
    "test_a_worker_gets_its_gpu_and_its_share_of_the_cores": "a cluster of two processes",
    "test_a_worker_sees_all_gpus_of_its_group_and_no_other": "a cluster of two processes",
    "test_a_run_that_ended_goes_on_to_the_same_bytes": "eight starts, each resumes the one before",
    "test_the_three_documented_ways_give_the_same_files_with_echo": "the published commands",
    "test_a_dry_run_becomes_a_page": "data, run, scores and page by the commands of the README",
    "test_calibration_times_rows_of_each_level": "a pool of workers that answers and is timed",
    "test_a_run_ends_before_it_costs_more_and_its_rows_are_spread": "a service answers all rows",
    "test_a_full_run_is_a_page_of_less_than_5_mb": "8,645 rows",
    "test_a_complete_published_run_is_ranked": "8,645 rows",
    "test_a_full_run_ends_with_its_scores": "8,645 rows, twice",
    "test_a_mean_is_the_same_number_wherever_it_stands": "three runs, scored and compared",
    "test_a_run_with_a_published_models_scores_shares_its_rank": "8,645 rows",
    "test_the_answer_is_transformers_greedy_text": "the tier's real model",
    "test_rows_that_are_out_must_stay_selected": "several starts against a real server",
    "test_a_batch_that_the_service_has_lost_is_named": "several starts against a real server",
    "test_an_online_run_waits_for_the_batches_that_are_out": "several starts against a server",
    "test_a_plan_leaves_out_what_batches_answer": "several starts against a real server",
    "test_the_api_script_predicts_resumes_by_row_and_evaluates": "a script and a real server",
    "test_bare_and_formatted_prompts_go_to_the_completions_endpoint": "a tokenizer and a server",
    "test_answered_rows_are_left_out_and_the_run_is_not_touched": "processes that count tokens",
    "test_plots_are_files_and_names_are_text": "six plots",
    "test_the_readmes_marked_blocks_run": "the README's commands",
    "test_the_same_command_again_resumes_and_asks_nothing_twice": "a script, twice",
    "test_a_growing_selection_only_adds": "a run that is resumed three times",
    "test_hub_archive_then_offline_then_by_fingerprint": "three processes and a server",
    "test_worker_processes_answer_as_one_process_does": "a cluster of two processes",
    "test_a_worker_refuses_a_file_that_has_changed": "a worker process",
    "test_an_entry_point_is_an_engine_by_its_name_and_only_then": "a cluster, and four more starts",
    "test_the_limit_follows_from_the_models_window": "a model that answers, and two plans of it",
    "test_a_plan_begins_with_what_it_comes_to_and_ends_with_the_run": "plans, and the run it names",
    "test_plan_and_check_work_with_a_file": "processes that count tokens",
    "test_a_model_that_falls_for_facts_shows_what_they_cost": "four runs, scored and compared",
    "test_a_model_that_knows_the_published_answers_shows_a_gap": "two runs, scored and compared",
    "test_without_options_the_files_are_those_of_old": "both pools of made-up articles",
    "test_near_distractors_are_nearer_and_stay_in_length": "both pools of articles, ranked",
    "test_the_job_array_of_the_manual_is_one_run": "a script, twice, as Slurm would start it",
    "test_what_is_missing_is_named_and_merged_once_it_is_there": "five starts and four merges",
    "test_parts_that_grow_keep_their_rows": "six starts and three merges",
    "test_settings_means_and_final_scores_are_told_and_the_run_is_the_same": "five scored starts",
    "test_a_subset_and_a_format_of_ones_own": "two commands with a worker process",
    "test_workers_need_no_more_than_their_tasks": "a worker process",
    "test_the_tour_runs_in_a_kernel": "the notebook, in a real kernel",
    "test_an_installed_copy_is_a_library_in_any_folder": "pip, and a program in another folder",
}


BEGAN = pytest.StashKey[float]()
HAD_TORCH = pytest.StashKey[bool]()


def pytest_runtest_call(item: pytest.Item) -> None:
    """Note the processor time at which a test begins."""
    item.stash[BEGAN] = sum(os.times()[:4])
    item.stash[HAD_TORCH] = "torch" in sys.modules


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a quick test that outgrows its budget, where the quick tier runs.

    It is counted in seconds of this process and its ended children: those of the clock depend on
    what else the machine does. A test that only waits may take ten times as long. Beside slow tests
    (real models, clusters) processor time itself is worth less, so there nothing is held to it.
    """
    report = yield
    if item.config.option.markexpr != "not slow":
        return report
    used = sum(os.times()[:4]) - item.stash.get(BEGAN, 0.0)
    first = "torch" in sys.modules and not item.stash.get(HAD_TORCH, True)
    with_torch = TORCH_SECONDS if first else 0.0
    allowed = SLACK * BUDGET_SECONDS + with_torch
    used = max(used, report.duration / 10)
    quick = item.get_closest_marker("slow") is None and report.when == "call" and report.passed
    name = getattr(item, "originalname", None) or item.name
    if quick and used > allowed and name not in SLOW_WITH_REASON:
        allowed = BUDGET_STARTS * seconds_to_start() + with_torch
    if quick and used > allowed and name not in SLOW_WITH_REASON:
        report.outcome = "failed"
        report.longrepr = (
            f"took {used:.1f} s of {allowed:.1f}: move it to a slow folder, or say in "
            "conftest.SLOW_WITH_REASON what it is worth"
        )
    return report


def seconds_to_start() -> float:
    """How fast this machine is now: processor seconds of a Python that imports numpy."""
    began = sum(os.times()[2:4])
    subprocess.run([sys.executable, "-c", "import numpy"], check=True)
    return sum(os.times()[2:4]) - began


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests neither see nor fill the user's cache; nothing may be asked of a hub."""
    os.environ["LVEVAL_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["PYTHON"] = sys.executable
    logs.configure()  # as the commands do


@pytest.fixture(scope="session")
def model_path() -> Path:
    """The embedded SmolLM2-135M-Instruct as a safetensors folder; `make test` makes it."""
    if not (MODEL / "config.json").is_file():
        pytest.fail(f"{MODEL} is missing; run the tests with `make test`, which makes it")
    return MODEL


def tiktoken_files() -> str:
    """The folder with tiktoken's files, for TIKTOKEN_CACHE_DIR: tests download nothing."""
    spec = importlib.util.find_spec("litellm")
    assert spec is not None and spec.submodule_search_locations, (
        "litellm is missing; run the tests with `make test`"
    )
    return f"{spec.submodule_search_locations[0]}/litellm_core_utils/tokenizers"


def script(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script of the checkout as a user would; output is text."""
    command = [sys.executable, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )


def in_process(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command's main in this process, with what it printed: no start of an interpreter.

    `words` as for `script`: prediction.py …, evaluation.py …, or -m lveval SUBCOMMAND ….
    """
    mains = {"prediction.py": prediction.main, "evaluation.py": evaluation.main}
    main, first = (cli.main, 2) if words[0] == "-m" else (mains[str(words[0])], 1)
    files = io.BytesIO(), io.BytesIO()
    safe = "utf-8", "backslashreplace"  # as streams.make_safe does
    printed, said = (io.TextIOWrapper(file, *safe) for file in files)
    called = sys.argv[0]
    with redirect_stdout(printed), redirect_stderr(said):
        try:
            code = int(main([str(word) for word in words[first:]]))
        except LVEvalError as error:
            message, code = ending(error) or ("", 1)  # as run_cli does
            print(printable(message), file=said)
        except SystemExit as ended:  # argparse's
            code = int(ended.code or 0)
        finally:
            sys.argv[0] = called  # which cli.main sets
    printed.flush()
    said.flush()
    texts = (file.getvalue().decode() for file in files)
    return subprocess.CompletedProcess([str(word) for word in words], code, *texts)


def row(
    subset: str = "hotpotwikiqa_mixup", number: int = 0, words: int = 60, **changes: object
) -> dict[str, object]:
    """A published-style row whose context names its answer once, in the middle."""
    language = (
        "zh"
        if subset in ("factrecall_zh", "multifieldqa_zh_mixup", "cmrc_mixup", "lic_mixup")
        else "en"
    )
    language = "zh" if subset == "dureader_mixup" else language
    if language == "zh":
        half = "\u6e05\u6668\u7684\u6e2f\u53e3\u5f88\u5b89\u9759\u3002" * (words // 18 + 1)
        context = (
            f"{half}\u7b2c{number}\u53f7\u706f\u5854\u5efa\u4e8e{1800 + number}\u5e74\u3002{half}"
        )
        question = f"\u7b2c{number}\u53f7\u706f\u5854\u5efa\u4e8e\u54ea\u4e00\u5e74\uff1f"
    else:
        half = " ".join(f"Ship {i} left the quay at dawn." for i in range(words // 14 + 1))
        context = f"{half} Lighthouse {number} was built in {1800 + number} by Orla Venn. {half}"
        question = f"When was lighthouse {number} built?"
    made: dict[str, object] = {
        "input": question,
        "context": context,
        "answers": [str(1800 + number)],
        "length": len(context) if language == "zh" else len(context.split()),
        "dataset": subset,
        "language": language,
        "answer_keywords": str(1800 + number),
        "confusing_facts": f"Lighthouse {number + 1000} was built in 1700.",
        "all_classes": None,
    }
    return made | changes


def write_data(folder: Path, name: str, rows: Sequence[dict[str, object]]) -> Path:
    """`<folder>/<name>.jsonl` with these rows."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.jsonl"
    path.write_text(
        "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in rows), encoding="utf-8"
    )
    return path


@pytest.fixture
def data_path(tmp_path: Path) -> Path:
    """Four small files: an English and a Chinese subset at two levels, five rows each."""
    folder = tmp_path / "data"
    for subset in ("hotpotwikiqa_mixup", "cmrc_mixup"):
        for level, words in (("1k", 60), ("2k", 200)):
            write_data(
                folder, f"{subset}_{level}", [row(subset, number, words) for number in range(5)]
            )
    return folder


def lines(path: Path) -> list[dict[str, object]]:
    """The records of a JSON Lines file."""
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


MODELING_TINY = """
import os
from transformers import LlamaConfig, LlamaForCausalLM


class TinyConfig(LlamaConfig):
    model_type = "tiny_chat_of_our_own"


class TinyChat(LlamaForCausalLM):
    ''' A model with a .chat() of its own that does what its prompt says. '''

    config_class = TinyConfig

    def chat(self, tokenizer, prompt, history=None, **settings):
        assert history == [] and settings["do_sample"] is False, settings
        if "DIE" in prompt:
            os._exit(9)
        if "OUT OF MEMORY" in prompt:
            raise MemoryError("no room for this row")
        if "INDEX" in prompt:
            return [][1]
        if "FAULT" in prompt:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return f"budget {settings['max_new_tokens']}", [("asked", "told")]
"""


@pytest.fixture(scope="session")
def tiny_model(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Llama with SmolLM2's tokenizer: loads and answers in a blink."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("models") / "tiny"
    settings = LlamaConfig(
        vocab_size=49152,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        eos_token_id=2,
        bos_token_id=1,
        pad_token_id=2,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(settings).save_pretrained(folder)
    AutoTokenizer.from_pretrained(model_path).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def chat_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as one that brings Python code of its own, with a `.chat()`."""
    folder = tmp_path_factory.mktemp("models") / "tiny-chat"
    shutil.copytree(tiny_model, folder)
    (folder / "modeling_tiny.py").write_text(MODELING_TINY)
    settings = json.loads((folder / "config.json").read_text())
    settings["model_type"] = "tiny_chat_of_our_own"
    settings["auto_map"] = {
        "AutoConfig": "modeling_tiny.TinyConfig",
        "AutoModelForCausalLM": "modeling_tiny.TinyChat",
    }
    (folder / "config.json").write_text(json.dumps(settings))
    return folder

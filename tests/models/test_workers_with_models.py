"""Who answers: this process or a Dask cluster, with workers that really die."""

from pathlib import Path

from conftest import lines, row, script, write_data
from support.tiny_models import edited


def test_where_every_row_fails_the_run_ends_early(chat_model: Path, tmp_path: Path) -> None:
    rows = [row(number=number, input="INDEX") for number in range(30)]
    write_data(tmp_path / "data", "hotpotwikiqa_mixup_1k", rows)
    found = script(
        "prediction.py", "--data-path", tmp_path / "data", "--output-dir", tmp_path / "out", "--model-name", "dry",
        "--datasets", "hotpotwikiqa_mixup", "--lengths", "1k", "--trust-remote-code", "--model-max-len", "400",
        "--model-path", chat_model, "--single-process",
    )  # fmt: skip
    assert found.returncode == 2, found.stderr
    assert "none of the 20 rows that were tried has an answer" in found.stderr
    assert "IndexError: list index out of range" in found.stderr.splitlines()[-1]
    assert "same command again" not in found.stderr
    assert len(lines(tmp_path / "out/dry/attempts.jsonl")) == 20


def test_an_engine_that_breaks_in_a_single_process_ends_it_resumable(
    chat_model: Path, tmp_path: Path
) -> None:
    rows = [row(number=number) for number in range(6)]
    rows[2]["input"] = "FAULT"
    rows[4]["input"] = "OUT OF MEMORY"
    write_data(tmp_path / "data", "hotpotwikiqa_mixup_1k", rows)
    command: tuple[str | Path, ...] = (
        "prediction.py", "--data-path", tmp_path / "data", "--output-dir", tmp_path / "out", "--model-name", "dry",
        "--datasets", "hotpotwikiqa_mixup", "--lengths", "1k", "--single-process", "--trust-remote-code",
        "--model-max-len", "400", "--model-path", chat_model,
    )  # fmt: skip
    for _ in range(2):  # the second time that row comes last
        found = script(*command)
        assert found.returncode == 3, found.stderr
        assert (
            "Traceback" not in found.stderr
            and "row 2" in found.stderr
            and "same command again" in found.stderr
        )
    done = lines(tmp_path / "out/dry/rows/hotpotwikiqa_mixup_1k.jsonl")
    assert sorted(int(str(record["index"])) for record in done) == [0, 1, 3, 5]
    attempts = lines(tmp_path / "out/dry/attempts.jsonl")
    broke = [attempt for attempt in attempts if attempt["index"] == 2]
    assert len(broke) == 2 and {attempt["cause"] for attempt in attempts} == {"error"}
    memory = {str(each["message"]) for each in attempts if each["index"] == 4}  # it fails alone
    assert len(memory) == 1 and "out of memory at" in (said := memory.pop()) and "twice" in said


def test_logits_of_nan_are_no_answer_and_a_model_that_says_nothing_is_told(
    tiny_model: Path, tmp_path: Path
) -> None:
    """Every logit of this model is 0, so that it ends at once; one row's token makes them NaN."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoTokenizer

    folder = tmp_path / "mute"
    edited(
        tiny_model,
        folder,
        "generation_config.json",
        lambda settings: settings.update(eos_token_id=0),
    )
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"].zero_()
    strange = AutoTokenizer.from_pretrained(folder).encode("\u2602")
    weights["model.embed_tokens.weight"][torch.tensor(strange)] = torch.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    rows = [row(number=number) for number in range(3)]
    rows[1]["input"] = "\u2602"
    write_data(tmp_path / "data", "hotpotwikiqa_mixup_1k", rows)
    found = script(
        "prediction.py", "--data-path", tmp_path / "data", "--output-dir", tmp_path / "out", "--model-name", "dry",
        "--datasets", "hotpotwikiqa_mixup", "--lengths", "1k", "--single-process", "--model-path", folder,
    )  # fmt: skip
    assert found.returncode == 3, found.stderr
    done = lines(tmp_path / "out/dry/rows/hotpotwikiqa_mixup_1k.jsonl")
    assert [(each["index"], each["status"], each["pred"]) for each in done] == [
        (0, "empty", ""),
        (2, "empty", ""),
    ]
    (attempt,) = lines(tmp_path / "out/dry/attempts.jsonl")
    assert (attempt["index"], attempt["cause"]) == (1, "invalid")
    assert "row 1: invalid: the model's logits contain NaN" in found.stderr
    assert "2 answers are empty" in found.stderr

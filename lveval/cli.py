"""The command `lveval`: one subcommand for each thing that the harness does, and the report's own
command line.

    lveval predict --model-path /models/chatglm3-6b-32k --model-name chatglm3 --model-max-len 31500
    python -m lveval report --input-dir outputs/chatglm3    in a checkout that is not installed

A subcommand is one of the mains, called with the rest of the command line.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lveval import __version__, user_tables
from lveval.common import logs
from lveval.common.command_line import Command
from lveval.common.errors import ExitCode, UsageError
from lveval.common.files import disk_errors, write_atomic
from lveval.common.logs import log
from lveval.common.text import unbroken
from lveval.options import add_run_folder_options, named_run_folder

if TYPE_CHECKING:
    from lveval.report.data import ReportData


# Subcommand -> the main that it is, as module:function, options that come first, and what help says
# of it.
COMMANDS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "predict": ("lveval.prediction:main", (), "answer the questions with a model; resumes"),
    "evaluate": ("lveval.evaluation:main", (), "score a run; compare it with others"),
    "verify": ("lveval.verify:main", (), "look whether a run's files are whole; writes nothing"),
    "report": ("lveval.cli:report", (), "show a run as one HTML page; plots and tables"),
    "plan": ("lveval.prediction:main", ("--plan",), "tell tokens, money and hours of a run"),
    "check": ("lveval.prediction:main", ("--check",), "look whether a run can work"),
    "export": ("lveval.cli:export", (), "write a run's scores and rows for other tools"),
    "construct": ("lveval.construct.write:main", (), "build data in LV-Eval's style"),
}


def main(argv: Sequence[str] | None = None) -> ExitCode:
    """Call the subcommand's main; --help lists them."""
    words = list(sys.argv[1:] if argv is None else argv)
    # In a checkout that is not installed there is no command of that name.
    called = "python -m lveval" if Path(sys.argv[0]).name == "__main__.py" else "lveval"
    parser = Command(
        prog=called,
        description="LV-Eval: question answering over contexts of 16k to 256k words.",
        epilog="\n".join(f"  {name:<10} {text}" for name, (_, _, text) in COMMANDS.items())
        + "\n\nEach has a --help of its own, and takes --config FILE and --formats FILE: tables of "
        "your own for those in config.py and utils.py.",
    )
    parser.add_argument("--version", action="version", version=f"lveval {__version__}")
    parser.add_argument("command", choices=list(COMMANDS), metavar="COMMAND", help="one of these")
    chosen: str = parser.parse_args(words[:1]).command
    where, first, _ = COMMANDS[chosen]
    module, _, function = where.partition(":")
    sys.argv[0] = f"{called} {chosen}"  # what argparse shows as the program
    found: ExitCode = getattr(importlib.import_module(module), function)([*first, *words[1:]])
    return found


def report_parser(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options, and in `folder` the run that they name."""
    parser = Command(
        usage="%(prog)s [--input-dir RUN] [options]",
        description="Show a run as one HTML page that opens from disk; plots and tables on demand.",
        epilog="exit codes: 0 written, 2 a wrong option or bad data, 4 runs that cannot be "
        "compared, 6 a file cannot be written",
    )
    add_run_folder_options(parser)
    parser.add_argument(
        "--output", type=Path, help="the page (default: report.html in the run's folder)"
    )
    parser.add_argument(
        "--leaderboard",
        action="store_true",
        help="rank the run among the published models, or say why it is not ranked",
    )
    parser.add_argument(
        "--plots",
        action="store_true",
        help="heat map, curves, causes, depths, radar, bars, comparisons as PNG and SVG files, too",
    )
    parser.add_argument(
        "--context-passages",
        choices=("short", "none"),
        default="short",
        help="what the page shows of the contexts: the words around evidence, confusing facts and "
        "cut, or nothing, for their licences (short)",
    )
    parser.add_argument("--markdown", action="store_true", help="the tables as Markdown, too")
    parser.add_argument("--latex", action="store_true", help="the tables as LaTeX, too")
    parser.add_argument(
        "--sweep",
        type=Path,
        nargs="+",
        default=[],
        metavar="RUN",
        help="folders of runs with a method; this run is the one without it",
    )
    parser.add_argument(
        "--sweep-by",
        default="",
        metavar="MEASURE",
        help="what the runs are placed by, a measure or seconds, prefill, decode (default: kept)",
    )
    arguments = parser.parse_args(user_tables.taken(argv))
    logs.configure(verbose=arguments.verbose, quiet=arguments.quiet)
    arguments.folder = named_run_folder(parser, arguments)
    return arguments


def report_of_folder(
    folder: Path,
    others: Sequence[Path] = (),
    *,
    leaderboard: bool = False,
    swept: Sequence[Path] = (),
    measure: str = "",
    data_path: Path | None = None,
    with_passages: bool = True,
    accept_edited: bool = False,
) -> "ReportData":
    """Analyse the run in `folder` for its page.

    `data_path`: a folder with its data, for want of cached copies. Raises LVEvalError where the run
    cannot be read, has no row, cannot be compared, or has other data.
    """
    from lveval.evaluation import analyze, evaluate, one_thread

    one_thread()
    from lveval.analysis import comparison, sweep
    from lveval.analysis.contexts import read_contexts
    from lveval.report.data import build_report
    from lveval.report.leaderboard import read_leaderboards

    scored = partial(evaluate, data_path=data_path, accept_edited=accept_edited)
    evaluation, *compared = map(scored, (folder, *dict.fromkeys(others)))
    if not evaluation.rows:
        raise UsageError(
            f"{folder}: no row has an answer yet; run prediction.py with this folder's options "
            "first"
        )
    contexts = read_contexts(evaluation, data_path, with_passages=with_passages)
    evaluation.depths = contexts.depths
    return build_report(
        evaluation,
        analyze(evaluation),
        contexts=contexts if with_passages else None,
        published=read_leaderboards(),
        rank=leaderboard,
        compared=comparison.compare_under_all(
            evaluation, {other.place: other for other in compared}
        ),
        others=compared,
        sweep=sweep.sweep_runs(evaluation, {run.name: scored(run) for run in swept}, measure)
        if swept
        else None,
    )


def report(argv: Sequence[str] | None = None) -> ExitCode:
    """Write what was asked for; the last line printed is the page's path."""
    arguments = report_parser(argv)
    output: Path = arguments.output or arguments.folder / "report.html"
    if output.suffix not in (".html", ".htm"):
        raise UsageError(f"--output {output}: expected the name of a page, ending in .html")
    from lveval.report import html, plots, tables
    from lveval.report.text import say

    page = report_of_folder(
        arguments.folder,
        arguments.compare,
        leaderboard=arguments.leaderboard,
        swept=arguments.sweep,
        measure=arguments.sweep_by,
        data_path=arguments.data_path,
        with_passages=arguments.context_passages != "none",
        accept_edited=arguments.accept_edited,
    )
    if page.sweep:
        print(f"{tables.sweep_table(page.sweep).text()}\n")
        for alarm in page.sweep.alarms:
            log.warning("warning: %s", alarm)
    with disk_errors("making the folder", output.parent):
        output.parent.mkdir(parents=True, exist_ok=True)
    written = []
    if arguments.markdown:
        written.append(output.with_suffix(".md"))
        write_atomic(written[-1], tables.markdown(page))
    if arguments.latex:
        written.append(output.with_suffix(".tex"))
        write_atomic(written[-1], tables.latex(page))
    if arguments.plots:
        written += plots.write(page, output.with_suffix(""))
    write_atomic(output, html.render(page))
    say(page.sentence)
    if page.headline.standing and arguments.leaderboard:
        say(page.headline.standing.in_words)
    for path in (*written, output):
        print(unbroken(str(path)))
    return ExitCode.COMPLETE


EXPORTS = ("every-eval-ever", "lm-eval")


def export_parser(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of an export."""
    parser = Command(
        description="Write a run's scores and rows in another tool's format (docs/exchange.md).",
        epilog="exit codes: 0 written, 2 a wrong option or bad data, 3 rows are missing, "
        "6 a file cannot be written",
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="the run's folder")
    add("--format", choices=EXPORTS, required=True, help="whose files to write")
    add("--output", type=Path, metavar="DIR", help="where (default: RUN/FORMAT)")
    add("--model-id", metavar="ORG/NAME", help="the model's name there (default: the run's)")
    add("--organization", default="unknown", metavar="NAME", help="who made the run (unknown)")
    add("--data-path", type=Path, metavar="FOLDER", help="the run's data, for want of cached ones")
    add("--allow-partial", action="store_true", help="export an incomplete run's rows")
    parser.add_loudness()
    return parser.parse_args(user_tables.taken(argv))


def export(argv: Sequence[str] | None = None) -> ExitCode:
    """Write a run for another tool; prints the path of the file with the scores."""
    arguments = export_parser(argv)
    logs.configure(verbose=arguments.verbose, quiet=arguments.quiet)
    from lveval.evaluation import evaluate
    from lveval.exchange import every_eval_ever, exporting, lm_eval
    from lveval.report.text import print_unfinished

    evaluation = evaluate(arguments.run, arguments.data_path)
    if evaluation.unfinished and not arguments.allow_partial:
        print_unfinished(evaluation)
        return ExitCode.INCOMPLETE
    if evaluation.control:
        raise UsageError(
            f"{arguments.run}: found a run of the control {evaluation.control}, whose scores would "
            "pass for the benchmark's elsewhere; expected one that was asked the benchmark"
        )
    output: Path = arguments.output or arguments.run / arguments.format
    hashes = exporting.hash_contexts(evaluation, arguments.data_path)
    if len(hashes) < len(evaluation.rows):
        log.warning(
            "%d rows go without their context's hash: their data are not here (--data-path)",
            len(evaluation.rows) - len(hashes),
        )
    if arguments.format == "lm-eval":
        written = lm_eval.write(evaluation, output, hashes, arguments.model_id)
    else:
        written = every_eval_ever.write(
            evaluation, output, hashes, arguments.model_id, arguments.organization
        )
    log.info("%d files of rows, and one of scores:", len(written) - 1)
    print(unbroken(str(written[-1])))
    return ExitCode.COMPLETE

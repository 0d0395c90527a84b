"""What a run came to, as one HTML page that opens from disk; on demand its plots and tables for papers.

    python report.py --input-dir outputs/chatglm3

Writes report.html into the run's folder: recipe, scores, curves against the published models, what truncation did,
where points went, comparisons, and every row, to be searched and opened. It reads the rows that are there; a run with
rows missing says so on its page. The page asks no network. --plots, --markdown and --latex write their files beside it.
"""

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from errors import ExitCode, HarnessError, printable, run
from files import storage, write_atomic
from scoring import add_run_options, evaluate, run_folder

if TYPE_CHECKING:  # what draws and analyses is loaded once there is something to draw
    from report_page.page import Page


def parse_arguments() -> argparse.Namespace:
    """The options, and in `folder` the run that they name."""
    parser = argparse.ArgumentParser(
        description="Show a run as one HTML page that opens from disk; plots and tables on demand.",
        epilog="exit codes: 0 written, 2 a wrong option or bad data, 4 runs that cannot be compared, "
        "6 a file cannot be written",
        allow_abbrev=False,
    )
    add_run_options(parser)
    parser.add_argument("--output", type=Path, help="the page (default: report.html in the run's folder)")
    parser.add_argument(
        "--leaderboard",
        action="store_true",
        help="rank the run among the published models; one that cannot be ranked is shown apart and says why",
    )
    parser.add_argument("--plots", action="store_true", help="heat map, curves and causes as PNG and SVG files, too")
    parser.add_argument("--markdown", action="store_true", help="the tables as Markdown, too")
    parser.add_argument("--latex", action="store_true", help="the tables as LaTeX, too")
    arguments = parser.parse_args()
    arguments.folder = run_folder(parser, arguments)
    return arguments


def page_of_folder(folder: Path, others: Sequence[Path] = (), *, leaderboard: bool = False) -> "Page":
    """Everything known of the run in `folder`; HarnessError where it cannot be read, has no row, or is incomparable."""
    from analysis import comparison, findings
    from report_page.leaderboard import read_published
    from report_page.page import page_of

    evaluation = evaluate(folder)
    if not evaluation.rows:
        raise HarnessError(f"{folder}: no row has an answer yet; run prediction.py with this folder's options first")
    return page_of(
        evaluation,
        findings.of(evaluation.rows, evaluation.causes),
        published=read_published(),
        rank=leaderboard,
        compared=comparison.against(evaluation, {str(other): evaluate(other) for other in others}),
    )


def main() -> ExitCode:
    """Write what was asked for; the last line printed is the page's path."""
    arguments = parse_arguments()
    cast(io.TextIOWrapper, sys.stdout).reconfigure(errors="backslashreplace")
    output: Path = arguments.output or arguments.folder / "report.html"
    if output.suffix not in (".html", ".htm"):
        raise HarnessError(f"--output {output}: expected the name of a page, ending in .html")
    from report_page import html, plots, tables

    page = page_of_folder(arguments.folder, arguments.compare, leaderboard=arguments.leaderboard)
    with storage("making the folder", output.parent):
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
    for path in (*written, output):
        print(printable(str(path)))
    return ExitCode.COMPLETE


if __name__ == "__main__":
    run(main)

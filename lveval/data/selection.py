"""The files of a run and the rows of them that are selected: all, the first K, or a sample.

files = load_selection([("lic_mixup", "16k")], data_path, limit=5)

A control (controls.py) leaves out the rows that it does not apply to. A part of a run answers its
share of the selected rows.
"""

import hashlib
import math
import zlib
from collections import Counter
from collections.abc import Sequence, Set
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lveval import config
from lveval.common.errors import UsageError
from lveval.common.levels import level_length
from lveval.common.logs import log
from lveval.data import controls, dataset
from lveval.data.own_subsets import require_language


@dataclass(frozen=True)
class SelectedFile:
    """One file of the run and its rows: how many are selected, which of them are not asked."""

    file: dataset.DataFile
    rows: int  # the first so many, or so many of `sample`
    left_out: frozenset[int] = frozenset()  # selected rows that the run's control does not apply to
    sample: tuple[int, ...] | None = None  # the selected rows, in order; None: the first `rows`
    elsewhere: frozenset[int] = frozenset()  # selected rows that other parts of the run answer

    @property
    def key(self) -> tuple[str, str]:
        """(subset, level)."""
        return self.file.subset, self.file.level

    @property
    def name(self) -> str:
        """`<subset>_<level>`."""
        return f"{self.file.subset}_{self.file.level}"

    def missing(self, answered: Set[int]) -> list[int]:
        """The rows to answer that are not `answered`."""
        selected = range(self.rows) if self.sample is None else self.sample
        others = self.left_out | self.elsewhere | answered
        return [index for index in selected if index not in others]

    @property
    def wanted(self) -> int:
        """How many rows are to be answered."""
        return len(self.missing(frozenset()))


def load_selection(
    names: Sequence[tuple[str, str]],
    data_path: Path | None,
    limit: int | None,
    executor: Executor | None = None,
    control: str | None = None,
    sample: tuple[int, int] | None = None,
    part: tuple[int, int] | None = None,
) -> list[SelectedFile]:
    """Read and check every selected file; side by side where there is an executor.

    `sample`: (rows of each file, seed). `part`: (number from 1, how many parts). Raises UsageError
    where the control applies to no row.
    """
    from tqdm import tqdm

    files = []
    loaded = (executor.map if executor else map)(
        partial(
            _select, data_path=data_path, limit=limit, control=control, sample=sample, part=part
        ),
        *zip(*names, strict=True),
    )
    for selected in tqdm(
        loaded, total=len(names), desc="checking the data", unit="file", delay=2, leave=False
    ):
        files.append(selected)
        file = selected.file
        require_language(file)
        log.debug("%s: %d of %d rows, %s", file.origin, selected.rows, len(file), file.fingerprint)
    if control:
        left_out = {selected.name: len(selected.left_out) for selected in files}
        said = controls.describe(control, sum(selected.rows for selected in files), left_out)
        if all(selected.rows == len(selected.left_out) for selected in files):
            raise UsageError(f"--{said}; expected data with rows that it applies to")
        log.info(said)
    return files


def _select(
    subset: str,
    level: str,
    data_path: Path | None,
    limit: int | None,
    control: str | None,
    sample: tuple[int, int] | None,
    part: tuple[int, int] | None,
) -> SelectedFile:
    file = dataset.load_file(subset, level, data_path)
    order: Sequence[int] = range(len(file))
    if sample is not None:
        limit, seed = sample
        order = sample_order(file.question_keys(), seed)
    chosen = order[:limit]
    left_out: frozenset[int] = frozenset()
    if control is not None and controls.CONTROLS[control].lacking:  # else no row need be read
        applies = controls.CONTROLS[control].change
        left_out = frozenset(index for index in chosen if applies(file.row(index)) is None)
    elsewhere: frozenset[int] = frozenset()
    if part is not None:
        number, parts = part
        elsewhere = frozenset(
            index
            for place, index in enumerate(chosen)
            if part_of(subset, level, place, parts) != number
        )
    drawn = None if sample is None else tuple(sorted(chosen))
    return SelectedFile(file, len(chosen), left_out, drawn, elsewhere)


def sample_order(questions: Sequence[str], seed: int) -> list[int]:
    """Put rows in a random order that only `seed` and their questions decide.

    So the first N are the same questions in every file that asks them, in whichever order, and a
    larger sample has the smaller one in it. Of rows that repeat a question the first, second … of
    each file go together.
    """
    seen: Counter[str] = Counter()
    keys = []
    for question in questions:
        seen[question] += 1
        keys.append(hashlib.sha256(f"{seed} {seen[question]} {question}".encode()).digest())
    return sorted(range(len(keys)), key=keys.__getitem__)


def part_of(subset: str, level: str, place: int, parts: int) -> int:
    """Deal a row to one of `parts` parts, 1 to `parts`, by its file and its place in the selection.

    The rows of a level cost about the same, so each level is dealt like cards: a row of each
    subset, then the next. As it depends on nothing else, a selection may grow and no row changes
    its part.
    """
    published = list(config.DATASET_ROWS)
    own = zlib.crc32(subset.encode())
    seat = published.index(subset) if subset in published else own
    stride = len(published)
    while math.gcd(stride, parts) > 1:  # else the rows of a file would all go to a few parts
        stride += 1
    # Each level begins with another part, so that the odd rows of all do not meet in one.
    first = 3 * level_length(level).bit_length()
    return 1 + (stride * place + seat + first) % parts

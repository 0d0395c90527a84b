"""The parts of a run (prediction.py --part) joined into one folder, as if it had been one run.

    merge_parts(Path("outputs/chatglm3"))    # reads outputs/chatglm3.part1of8, .part2of8 …

Parts are only read, also while they are still being written. Rows that the folder has already stay,
so a merge that was killed, or made before all answers were there, is simply made again.
"""

import re
from pathlib import Path

from lveval.common.errors import IncompleteRun, UsageError
from lveval.common.files import disk_errors
from lveval.common.logs import log
from lveval.runs.folder import (
    FILE_NAME,
    first_rows,
    is_unanswered,
    read_manifest,
    read_rows,
    rows_to_answer,
)
from lveval.runs.record import ROW_VERSION, JsonObject
from lveval.runs.spec import grow, require_same_spec
from lveval.runs.store import RunStore

PART_NAME = re.compile(r"(?P<run>.+)\.part(?P<number>[1-9]\d*)of(?P<of>[1-9]\d*)")


def find_parts(folder: Path) -> dict[tuple[int, int], Path]:
    """Find the parts of the run in `folder`, beside it: (number, of how many) -> folder."""
    found = {}
    with disk_errors("reading", folder.parent):
        for path in folder.parent.iterdir() if folder.parent.is_dir() else ():
            match = PART_NAME.fullmatch(path.name)
            if match and match["run"] == folder.name and path.is_dir():
                found[int(match["number"]), int(match["of"])] = path
    return dict(sorted(found.items()))


def merge_parts(folder: Path) -> None:
    """Bring all answers of the parts into the run in `folder`; say what is missing.

    Raises UsageError where there is no part, where parts of several divisions are found or a row
    is in two of them, SettingsMismatch where parts, or what is in `folder`, differ in what decides
    the answers, IncompleteRun where nothing is answered, LVEvalError where files are damaged.
    """
    parts = find_parts(folder)
    if not parts:
        raise UsageError(
            f"{folder}: found no part of this run; expected folders such as "
            f"{folder.name}.part1of8 beside it, made by prediction.py --part"
        )
    if len(divisions := {of for _, of in parts}) > 1:
        raise UsageError(
            f"{folder}: found parts of {' and of '.join(map(str, sorted(divisions)))}; expected "
            "those of one division; move the others elsewhere"
        )
    manifests = {}
    for place, part in parts.items():
        manifest = read_manifest(part)
        if manifest is not None and not is_unanswered(part):
            if manifest.get("part") != list(place):
                raise UsageError(
                    f"{part}: by its run.json it is {_described(manifest.get('part'))}; expected "
                    f"{_described(place)}; give it its own name again"
                )
            manifests[part] = manifest
    if not manifests:
        raise IncompleteRun(f"{folder}: none of the {len(parts)} parts has an answer yet")
    whole = _united(manifests)
    _refuse_doubles(list(manifests))
    with RunStore.open(
        folder,
        whole["identity"],
        whole["selection"],
        whole["rows"],
        left_out=whole["left_out"],
        sampled=whole["sampled"],
        unverified=whole["unverified"],
    ) as store:
        for manifest in manifests.values():  # engines that differ are refused before any row comes
            if effective := manifest["identity"].get("effective"):
                store.record_resolved(effective)
        taken = 0
        for part in manifests:
            new, others = store.adopt(part)
            taken += new
            if others:
                log.warning("%s: %d rows have another answer in %s", part, others, folder)
        if taken:
            store.log({"event": "merge", "parts": [part.name for part in parts.values()]})
        missing = {}
        for name in whole["selection"]:
            subset, _, level = name.rpartition("_")
            store.export_predictions(subset, level)
            answered = store.answered(subset, level)
            missing[name] = sorted(rows_to_answer(store.manifest, name) - answered)
    _report(folder, parts, missing, taken)


def _described(part: object) -> str:
    return "part {} of {}".format(*part) if isinstance(part, list | tuple) else "no part"


def _united(manifests: dict[Path, JsonObject]) -> JsonObject:
    """What run.json of the whole run holds. Raises SettingsMismatch where parts differ."""
    whole: JsonObject = {"selection": {}, "rows": {}, "left_out": {}, "sampled": {}}
    whole["unverified"] = []
    for part, manifest in manifests.items():
        # What the engines decided is compared as it is when a run goes on, by the store.
        identity = {k: v for k, v in manifest["identity"].items() if k != "effective"}
        known = whole.setdefault("identity", identity)
        versions = {"row_version": manifest.get("row_version")}, {"row_version": ROW_VERSION}
        require_same_spec(part, identity | versions[0], known | versions[1])
        grow(known, identity)
        whole["rows"] |= manifest["rows"]
        whole["unverified"] += manifest.get("unverified", ())
        for name, number in manifest["selection"].items():
            whole["selection"][name] = max(number, whole["selection"].get(name, 0))
        for field in ("left_out", "sampled"):
            for name, rows in manifest.get(field, {}).items():
                whole[field][name] = sorted({*rows, *whole[field].get(name, ())})
    return whole


def _refuse_doubles(parts: list[Path]) -> None:
    """Raise UsageError where two parts have the same row."""
    seen: dict[tuple[str, int], Path] = {}
    for part in parts:
        for path in part.glob("rows/*.jsonl"):
            for index in read_rows(path) if FILE_NAME.fullmatch(path.name) else ():
                first = seen.setdefault((path.stem, index), part)
                if first != part:
                    raise UsageError(
                        f"{part}: row {index} of {path.stem} is in {first}, too; expected each row "
                        "in one part; were folders copied, or parts made by different versions?"
                    )


def _report(
    folder: Path, parts: dict[tuple[int, int], Path], missing: dict[str, list[int]], taken: int
) -> None:
    of = next(iter(parts))[1]
    log.info("merged %d of %d parts into %s: %d rows are new", len(parts), of, folder, taken)
    there = {number for number, _ in parts}
    if absent := [str(number) for number in range(1, of + 1) if number not in there]:
        log.warning("missing parts (of %d): %s", of, ", ".join(absent))
    for name, rows in missing.items():
        if rows:
            log.warning("%s: %d rows have no answer: %s", name, len(rows), first_rows(rows))

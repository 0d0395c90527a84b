"""The store's promises: a recorded row survives, one record a row, the same bytes whatever happened before."""

from pathlib import Path

import pytest
from support.stores import NAME, filled, opened, record, rows_file

from lveval.common.errors import ExitCode, LVEvalError
from lveval.runs.folder import read_records
from lveval.runs.store import RunStore

# --- damage -----------------------------------------------------------------------------------------------------------


def test_a_row_file_cut_at_any_byte_loses_only_what_was_cut(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = filled(tmp_path / "run")
    content = rows_file(tmp_path / "run").read_bytes()
    for size in range(len(content)):
        folder = tmp_path / f"cut-{size}"
        opened(folder).__exit__()
        rows_file(folder).parent.mkdir()
        rows_file(folder).write_bytes(content[:size])
        whole = content[:size].count(b"\n")
        assert [item.record["index"] for item in read_records(folder, "lic_mixup", "16k")] == list(
            range(whole)
        )
        with opened(folder) as run:
            assert run.answered("lic_mixup", "16k") == set(range(whole))
            torn = content[:size].rpartition(b"\n")[2]
            assert ("cut off in mid-write" in capsys.readouterr().err) == bool(torn)
            aside = rows_file(folder).with_name(f"{NAME}.jsonl.torn")
            assert (aside.read_bytes() if aside.exists() else b"") == (
                torn + b"\n" if torn else b""
            )
            for index in range(whole, 3):
                assert run.append(record(index, pred=f"answer {index}"))
            derived = run.export_predictions("lic_mixup", "16k")
        assert derived and derived.read_bytes() == expected


def test_every_flipped_bit_is_found_or_harmless(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / f"{NAME}.jsonl").unlink()
    original = rows_file(tmp_path).read_bytes()
    records = [item.record for item in read_records(tmp_path, "lic_mixup", "16k")]
    found = torn = 0
    for bit in range(8 * len(original)):
        damaged = bytearray(original)
        damaged[bit // 8] ^= 1 << bit % 8
        rows_file(tmp_path).write_bytes(damaged)
        for look in (lambda: read_records(tmp_path, "lic_mixup", "16k"), lambda: opened(tmp_path)):
            try:
                result = look()
            except LVEvalError as error:
                assert f"{NAME}.jsonl:" in error.message and error.code == ExitCode.STORAGE
                found += 1
                continue
            # The last line break alone can go unnoticed: its row counts as cut off and is answered again.
            assert bit // 8 == len(original) - 1
            torn += 1
            if isinstance(result, RunStore):
                assert result.answered("lic_mixup", "16k") == {0, 1}
                result.__exit__()
            else:
                assert [item.record for item in result] == records[:2]
    assert torn == 16 and found == 16 * (len(original) - 1)

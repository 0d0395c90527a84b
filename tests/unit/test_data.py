"""data.py: rows, every fault that one can have, and the cached copies. Where files come from: test_data_sources.py."""

import hashlib
import json
import os
import pickle
import threading
import time
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.data_files import (
    LEVEL,
    NAME,
    PEAK,
    SUBSET,
    cache,
    child,
    folder_with,
    line,
    refusal,
    row,
)

from lveval.common import jsonl
from lveval.common.errors import ExitCode, LVEvalError
from lveval.data import dataset, sources
from lveval.data.dataset import DataFile, load_file
from lveval.data.rows import Row

__all__ = ["cache"]  # fixtures


def loaded(tmp_path: Path, content: bytes) -> DataFile:
    return load_file(SUBSET, LEVEL, folder_with(tmp_path, content))


def copies(cache: Path) -> list[Path]:
    return sorted((cache / "data").rglob("*.arrow"))


# --- What a sound file becomes ----------------------------------------------------------------------------------------


def test_rows_come_back_as_they_are(tmp_path: Path) -> None:
    content = line() + line(
        answers=["a", "b"], all_classes=["x"], length=0, extra={"ignored": [1, "two"]}
    )
    file = loaded(tmp_path, content)
    assert len(file) == 2
    assert file.fingerprint == "sha256:" + hashlib.sha256(content).hexdigest()
    assert file.row(0) == {**row(), "question_id": None, "offsets": None}
    assert file.row(1)["answers"] == ["a", "b"]
    assert file.row(1)["all_classes"] == ["x"]
    assert file.origin == f"{tmp_path}/data/{NAME}"
    assert list(file.row(0)) == list(Row.__annotations__)


@pytest.mark.parametrize(
    ("changes", "field", "expected"),
    [
        ({"answer_keywords": ...}, "answer_keywords", None),
        ({"answer_keywords": None}, "answer_keywords", None),
        ({"answer_keywords": ..., "gold_ans": "amber reef"}, "answer_keywords", "amber reef"),
        ({"answer_keywords": None, "gold_ans": "amber"}, "answer_keywords", "amber"),
        ({"answer_keywords": "amber", "gold_ans": None}, "answer_keywords", "amber"),
        ({"answer_keywords": "amber", "gold_ans": "amber"}, "answer_keywords", "amber"),
        ({"confusing_facts": ...}, "confusing_facts", None),
        ({"confusing_facts": None}, "confusing_facts", None),
        ({"confusing_facts": []}, "confusing_facts", None),
        ({"confusing_facts": " "}, "confusing_facts", None),
        ({"confusing_facts": "one fact"}, "confusing_facts", ["one fact"]),
        ({"confusing_facts": ["one", "two"]}, "confusing_facts", ["one", "two"]),
        ({"confusing_facts": ..., "distractor": "one fact"}, "confusing_facts", ["one fact"]),
        ({"confusing_facts": ..., "distractor": ["one", "two"]}, "confusing_facts", ["one", "two"]),
        ({"all_classes": ...}, "all_classes", None),
        ({"question_id": "hotpot-1"}, "question_id", "hotpot-1"),
        ({"offsets": None}, "offsets", None),
        ({"offsets": {}}, "offsets", {"evidence": [], "confusing_facts": []}),
        (
            {"offsets": {"evidence": [[0, 5]]}},
            "offsets",
            {"evidence": [[0, 5]], "confusing_facts": []},
        ),
        ({"all_classes": []}, "all_classes", []),
        ({"context": "a\u2028b\u0085c\x00d"}, "context", "a\u2028b\u0085c\x00d"),
        ({"context": "\U0001f600"}, "context", "\U0001f600"),
        ({"index": 7}, "dataset", SUBSET),
    ],
)
def test_spellings_in_the_wild(
    tmp_path: Path, changes: dict[str, Any], field: str, expected: object
) -> None:
    found: dict[str, Any] = dict(loaded(tmp_path, line() + line(**changes)).row(1))
    assert found[field] == expected


def test_equal_rows_are_rows_of_their_own(tmp_path: Path) -> None:
    """A row is its position in the file: a repeated line is neither merged nor refused."""
    file = loaded(tmp_path, line() * 2 + line(input="Other?") + line())
    assert [file.row(i)["input"] for i in range(len(file))] == [
        "Which reef?",
        "Which reef?",
        "Other?",
        "Which reef?",
    ]


def test_fields_may_be_null_for_long_and_then_change_their_type(tmp_path: Path) -> None:
    quiet = line(confusing_facts=None, answer_keywords=None)
    file = loaded(tmp_path, quiet * 40 + line(confusing_facts="s") + line(confusing_facts=["l"]))
    assert [file.row(i)["confusing_facts"] for i in (0, 40, 41)] == [None, ["s"], ["l"]]


def test_the_tables_spelling_of_a_subset(tmp_path: Path) -> None:
    content = line(dataset="loogle-MR-mixup") + line(dataset="loogle_MIR_mixup")
    file = load_file(
        "loogle_MIR_mixup", LEVEL, folder_with(tmp_path, content, "loogle_MIR_mixup_16k.jsonl")
    )
    assert [file.row(i)["dataset"] for i in range(2)] == ["loogle_MIR_mixup"] * 2


def test_a_subset_of_the_users_own(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, line(dataset="mine", language="de"), "mine_3k.jsonl")
    assert load_file("mine", "3k", folder).row(0)["language"] == "de"


@pytest.mark.parametrize(
    "content", [line() + line(), (line() + line()).rstrip(), line() + line() + b"\r\n  \n"]
)
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_line_ends_and_byte_order_mark(
    tmp_path: Path, content: bytes, bom: bytes, end: bytes
) -> None:
    file = loaded(tmp_path, bom + content.replace(b"\n", end))
    assert [file.row(i)["answers"] for i in range(len(file))] == [["amber reef"]] * 2


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
spans = st.lists(st.just([0, 0]), max_size=3)  # the only one that every context has


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "input": texts,
                "context": texts,
                "answers": st.lists(texts, min_size=1, max_size=3),
                "length": st.integers(0, 2**63 - 1),
                "answer_keywords": st.none() | texts,
                "all_classes": st.none() | st.lists(texts, max_size=2),
                "question_id": st.none() | texts,
                "confusing_facts": st.none()
                | st.lists(texts.filter(str.strip), min_size=1, max_size=3),
                "offsets": st.none()
                | st.fixed_dictionaries({"evidence": spans, "confusing_facts": spans}),
            }
        ),
        min_size=1,
        max_size=5,
    ),
    st.booleans(),
)
def test_any_rows_survive_the_copy(
    tmp_path: Path, rows: list[dict[str, Any]], ascii_only: bool
) -> None:
    lines = [json.dumps(row(**changes), ensure_ascii=ascii_only) + "\n" for changes in rows]
    file = loaded(tmp_path, "".join(lines).encode())
    assert [{name: file.row(i)[name] for name in changes} for i, changes in enumerate(rows)] == rows  # type: ignore[literal-required]


def test_index_outside_of_the_file(tmp_path: Path) -> None:
    file = loaded(tmp_path, line())
    for index in (-1, 1):
        with pytest.raises(IndexError):
            file.row(index)


# --- Faults of a row --------------------------------------------------------------------------------------------------

HALF = "\\ud83d"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        *[
            ({name: ...}, f'no "{name}" (found: ')
            for name in ("input", "context", "answers", "length", "dataset")
        ],
        ({"language": ...}, 'no "language"'),
        ({"input": None}, "input: found None; expected text"),
        ({"input": 3}, "input: found 3; expected text"),
        ({"context": ["a"]}, "context: found ['a']; expected text"),
        ({"answers": "amber"}, "answers: found 'amber'; expected a list"),
        ({"answers": []}, "answers: found []; expected at least one"),
        ({"answers": ["a", None]}, "answers[1]: found None; expected text"),
        ({"length": "8"}, "length: found '8'; expected a whole number"),
        ({"length": True}, "length: found True; expected a whole number"),
        ({"length": 8.0}, "length: found 8.0; expected a whole number"),
        ({"length": -1}, "length: found -1"),
        ({"length": 2**63}, "length: found 9223372036854775808"),
        ({"dataset": "lic_mixup"}, f"dataset: found 'lic_mixup'; expected {SUBSET}"),
        ({"dataset": None}, "dataset: found None; expected text"),
        ({"language": "zh"}, "language: found 'zh'; expected en"),
        ({"answer_keywords": ["amber"]}, "answer_keywords: found ['amber']; expected text"),
        ({"gold_ans": 3, "answer_keywords": ...}, "answer_keywords: found 3; expected text"),
        ({"gold_ans": "coral"}, "answer_keywords: found ['amber', 'coral']; expected the same"),
        ({"confusing_facts": 3}, "confusing_facts: found 3; expected"),
        ({"confusing_facts": ["a", 3]}, "confusing_facts[1]: found 3; expected text"),
        ({"all_classes": "x"}, "all_classes: found 'x'; expected a list"),
        ({"question_id": 3}, "question_id: found 3; expected text"),
        ({"offsets": [1]}, "offsets: found [1]; expected"),
        ({"offsets": {"evidence": 1}}, "offsets.evidence: found 1; expected"),
        (
            {"offsets": {"evidence": [[0, 1], [3, 2]]}},
            "offsets.evidence[1]: found [3, 2]; expected",
        ),
        ({"offsets": {"evidence": [[-1, 2]]}}, "offsets.evidence[0]: found [-1, 2]"),
        ({"offsets": {"confusing_facts": [[0, 99]]}}, "offsets.confusing_facts[0]: found [0, 99]"),
        ({"offsets": {"evidence": [[0, True]]}}, "offsets.evidence[0]: found [0, True]"),
        ({"offsets": {"evidence": [[0]]}}, "offsets.evidence[0]: found [0]"),
    ],
)
def test_faulty_field(tmp_path: Path, cache: Path, changes: dict[str, Any], told: str) -> None:
    message = refusal(lambda: loaded(tmp_path, line() + line(**changes)))
    assert message.startswith(f"{tmp_path}/data/{NAME}:2: {told}")
    assert list((cache / "data").rglob("*.*")) == []


@pytest.mark.parametrize(
    ("second", "told"),
    [
        (line()[:-30], "was the file cut?"),
        (line()[:40], "was the file cut?"),
        (b"not json\n", ":2: column 1: found 'Expecting value'; expected a JSON object"),
        (b"[1]\n", ":2: found [1]; expected a JSON object"),
        (b"null\n", ":2: found None; expected a JSON object"),
        (line().replace("森".encode(), b"\xff"), ":2: byte 83: found b'\\xff'; expected UTF-8"),
        (line().replace("森".encode(), b"\xed\xa0\xbd"), "expected UTF-8"),
        (line().replace(b"amber", b"\x00\x00"), "Invalid control character"),
        (b"\x00" * 4096, "column 1"),
        (b"\xef\xbb\xbf" + line(), "BOM"),
        (
            line().replace(b"Which", HALF.encode()),
            ":2: input (character 0): found '\\ud83d'; expected no half",
        ),
        (line().replace(b'["amber', f'["{HALF}'.encode()), "answers[0] (character 0)"),
        (b'{"input": ' + b"[" * 200_000 + b"]" * 200_000 + b"}\n", "RecursionError"),
        (line(length=...)[:-2] + b', "length": ' + b"9" * 5000 + b"}\n", "ValueError"),
        (b'{"input": "a", "input": "b"}\n', "2 times 'input'"),
        (line()[:-2] + b', "x": {"y": 1, "z": 2, "y": 1}}\n', "2 times 'y'"),
        (b"\n" + line(), ":2: found a blank line"),
        (b" \r\n\n" + line(), ":2: found a blank line"),
    ],
)
def test_faulty_line(tmp_path: Path, second: bytes, told: str) -> None:
    message = refusal(lambda: loaded(tmp_path, line() + second))
    assert f"{NAME}:2:" in message
    assert told in message
    assert len(message) < 600


@pytest.mark.parametrize("content", [b"", b"\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\r\n \n"])
def test_empty_file(tmp_path: Path, content: bytes) -> None:
    assert "found an empty file" in refusal(lambda: loaded(tmp_path, content))


def test_a_file_cut_anywhere(tmp_path: Path) -> None:
    """Cut in its last row at any byte, it is refused; cut right behind a row it is a shorter file."""
    whole = line()
    for cut in range(1, len(whole) - 1, 7):
        assert ":2:" in refusal(lambda cut=cut: loaded(tmp_path, whole + whole[:cut]))  # type: ignore[misc]


def test_a_huge_line_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 1000)
    assert f"{NAME}:2: found a line of more than 1000 bytes" in refusal(
        lambda: loaded(tmp_path, line() + line(context="x" * 1000))
    )
    assert len(loaded(tmp_path, line(context="x" * 500))) == 1


HUGE = f"""{PEAK}
from lveval.common.errors import run_cli
from lveval.data.dataset import load_file
def main():
    try:
        return len(load_file("hotpotwikiqa_mixup", "16k", Path(sys.argv[1])))
    finally:
        print(peak_mb())
run_cli(main)
"""


def test_a_line_without_an_end_takes_bounded_memory(tmp_path: Path) -> None:
    """1 GB without a line's end, sparse on the disk: no more than the limit of 64 MB and its copy is ever held."""
    with (folder_with(tmp_path, b"") / NAME).open("wb") as stream:
        stream.truncate(2**30)
    done = child(HUGE, tmp_path / "data")
    assert done.returncode == ExitCode.USAGE
    assert f"{NAME}:1: found a line of more than" in done.stderr
    assert int(done.stdout) < 300


def test_the_context_stays_out_of_messages(tmp_path: Path) -> None:
    secret = "word " * 5000
    for changes in (
        {"context": [secret]},
        {"context": {secret: secret}},
        {"answers": [[secret]]},
        {"dataset": secret},
    ):
        assert len(refusal(lambda changes=changes: loaded(tmp_path, line(**changes)))) < 400  # type: ignore[misc]


# --- What a message names ---------------------------------------------------------------------------------------------


def archive(path: Path, content: bytes, *more: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as writing:
        writing.writestr(NAME, content)
        for name in more:
            writing.writestr(name, "")
    return path


def test_an_archive_with_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    """zipfile decodes each member's name when it opens an archive, whichever is asked for."""
    path = archive(tmp_path / "data" / f"{SUBSET}.zip", line(), "森.txt")
    path.write_bytes(path.read_bytes().replace("森".encode(), b"\xff\xff\xff"))
    assert "found a damaged archive" in refusal(lambda: load_file(SUBSET, LEVEL, path.parent))


def test_the_file_to_delete_is_the_hub_clients_blob(tmp_path: Path) -> None:
    """The client's path is a link to a blob. Without the link it would link the same blob again."""
    folder = tmp_path / "hf" / "hub" / f"datasets--{sources.HUB_REPO.replace('/', '--')}"
    blob = archive(folder / "blobs" / "0123", line() * 2)
    link = folder / "snapshots" / sources.HUB_REVISION / f"{SUBSET}.zip"
    link.parent.mkdir(parents=True)
    link.symlink_to(blob)
    code = (
        "from lveval.common.errors import run_cli\n"
        "from lveval.data.dataset import load_file\n"
        "run_cli(lambda: len(load_file('hotpotwikiqa_mixup', '16k', None)))"
    )
    for damaged, told in (
        (False, "found 2 rows; expected the 124"),
        (True, "found a damaged archive"),
    ):
        if damaged:
            blob.write_bytes(blob.read_bytes()[:-30])
        done = child(code, HF_HOME=str(tmp_path / "hf"), HF_HUB_OFFLINE="1")
        assert done.returncode == ExitCode.USAGE, done.stderr
        assert told in done.stderr
        assert f"error: {link}/" in done.stderr
        assert f"delete {blob.resolve()}" in done.stderr


def test_what_is_found_is_clipped(tmp_path: Path) -> None:
    for subset, level in (("!" * 5000, LEVEL), (SUBSET, "9" * 5000)):
        assert len(refusal(partial(load_file, subset, level, tmp_path))) < 200


# --- The copies -------------------------------------------------------------------------------------------------------


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be as a new process, which has nothing mapped."""
    monkeypatch.setattr(dataset, "_datasets", {})


def test_a_worker_opens_the_copy_without_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = loaded(tmp_path, line() * 2)
    (tmp_path / "data" / NAME).unlink()
    forget(monkeypatch)
    again = load_file(SUBSET, LEVEL, tmp_path / "data", file.fingerprint)
    assert (again.fingerprint, len(again), again.row(1)) == (file.fingerprint, 2, file.row(1))
    forget(monkeypatch)
    packed = pickle.dumps(again)
    assert len(packed) < 2000
    assert pickle.loads(packed).row(0) == file.row(0)


def test_a_worker_without_a_copy_reads_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    file = loaded(tmp_path, line())
    copies(cache)[0].unlink()
    forget(monkeypatch)
    assert load_file(SUBSET, LEVEL, tmp_path / "data", file.fingerprint).row(0) == file.row(0)


def test_other_content_than_expected(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, line())
    with pytest.raises(LVEvalError) as caught:
        load_file(SUBSET, LEVEL, folder, "sha256:" + "0" * 64)
    assert caught.value.code == ExitCode.IDENTITY
    assert "expected sha256:0000" in caught.value.message
    for wrong in ("", "sha256:../../x", "md5:" + "0" * 32):
        assert "fingerprint" in refusal(lambda wrong=wrong: load_file(SUBSET, LEVEL, folder, wrong))  # type: ignore[misc]


def test_a_torn_or_altered_copy_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    file = loaded(tmp_path, line() * 3)
    (copy,) = copies(cache)
    sound = copy.read_bytes()
    assert copy.stat().st_mode & 0o077 == 0
    steps = max(1, len(sound) // 60)
    damages = [sound[:cut] for cut in range(0, len(sound), steps)] + [
        sound[:-1],
        sound + b"\n",
        b"\x00" * len(sound),
    ]
    damages += [
        sound[:at] + bytes([sound[at] ^ 4]) + sound[at + 1 :] for at in range(3, len(sound), steps)
    ]
    for known in (None, file.fingerprint):
        for damaged in damages:
            copy.write_bytes(damaged)
            forget(monkeypatch)
            again = load_file(SUBSET, LEVEL, tmp_path / "data", known)
            assert copy.read_bytes() == sound
            assert again.row(2) == file.row(2)


def test_a_copy_that_vanished_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    file = loaded(tmp_path, line())
    copies(cache)[0].unlink()
    forget(monkeypatch)
    assert "start the run again" in refusal(lambda: file.row(0))


def test_the_same_bytes_under_another_subset_are_checked_again(tmp_path: Path) -> None:
    loaded(tmp_path, line())
    folder_with(tmp_path, line(), "factrecall_en_16k.jsonl")
    assert "expected factrecall_en" in refusal(
        lambda: load_file("factrecall_en", LEVEL, tmp_path / "data")
    )


def test_leftovers_of_a_killed_process_are_removed_when_old(tmp_path: Path, cache: Path) -> None:
    loaded(tmp_path, line())
    old, young = (copies(cache)[0].parent / name for name in ("old.tmp", "young.tmp"))
    for leftover in (old, young):
        leftover.write_bytes(b"x")
    os.utime(old, (time.time() - 10**6,) * 2)
    loaded(tmp_path, line() * 2)
    assert not old.exists()
    assert young.exists()


FULL_DISK = """
import resource, signal, sys
from functools import partial
from pathlib import Path
from lveval.common.errors import run_cli
from lveval.data.dataset import load_file
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
run_cli(lambda: len(load_file("hotpotwikiqa_mixup", "16k", Path(sys.argv[1]))))
"""


def test_no_room_for_the_copy(tmp_path: Path, cache: Path) -> None:
    folder = folder_with(tmp_path, line(context="x" * 300_000))
    done = child(FULL_DISK, folder)
    assert done.returncode == ExitCode.STORAGE, done.stderr
    assert "LVEVAL_CACHE" in done.stderr
    assert "Traceback" not in done.stderr
    assert list((cache / "data").rglob("*.*")) == []


def test_two_threads(tmp_path: Path, cache: Path) -> None:
    folder = folder_with(
        tmp_path, b"".join(line(length=i, context="x" * 1000 * i) for i in range(50))
    )
    wrong: list[int] = []

    def work() -> None:
        file = load_file(SUBSET, LEVEL, folder)
        wrong.extend(i for i in range(50) if len(file.row(i)["context"]) != 1000 * i)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(list((cache / "data").rglob("*.*"))) == 1


def test_import_is_light() -> None:
    heavy = "[name for name in ('datasets', 'pyarrow', 'huggingface_hub', 'torch', 'tqdm') if name in sys.modules]"
    done = child(f"import sys; from lveval.data import dataset; print({heavy})")
    assert done.stdout.strip() == "[]", done.stderr

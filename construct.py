"""Builds data in LV-Eval's style: mix-up of documents, confusing facts, keyword and phrase replacement.

    python construct.py --output-dir mydata --datasets hotpotwikiqa_mixup --lengths 16k 32k --rows 10

`prediction.py --data-path mydata` evaluates on it. The method is that of Yuan et al., "LV-Eval", arXiv 2402.05136,
section 3. A source (a line of <sources>/<subset>.jsonl, see FIELDS) is a question with its supporting documents. Every
level asks the same questions. A row is a function of (seed, subset, level, row number), the sources and the distractors
alone: neither the other files asked for nor the number of workers changes a byte.
"""

import argparse
import contextlib
import functools
import hashlib
import itertools
import json
import os
import random
import re
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import config
import pools
from errors import ExitCode, HarnessError, choices, run

SAMPLES = Path(__file__).resolve().parent / "samples"
SEPARATOR = "\n\n"
UNITS = {"en": "words", "zh": "characters"}
# Made-up articles per language: a context is a seeded sample of them. A level above half of it gets twice its own size.
POOL_SIZE = 600_000
TOLERANCE = 0.015  # how far a context may be from its level; 2 % is promised, and Chinese has its last separator less
MAX_SLACK = 25  # the same in words or characters: half a long sentence, so that mostly a sentence ends near enough
TASK_SIZE = 2_000_000  # words or characters that a worker builds in one go: about 12 MB
SENTENCE_END = re.compile(r"[.!?][\"'”’)\]]*(?=\s|\Z)|[。！？…]+[”’」』）]*")
# Answers that any distractor may hold without giving something away.
YES_NO = {"yes", "no", "true", "false", "是", "否", "不是", "有", "没有", "对", "不", "能", "不能"}

File = tuple[str, str, int]  # subset, level, number of rows
Piece = tuple[tuple[str, int] | None, str]  # (what to record: "evidence" or "confusing_facts" and its number; text)


def seeded(*parts: object) -> random.Random:
    """A generator that depends on `parts` only: not on PYTHONHASHSEED, not on what was drawn before."""
    digest = hashlib.sha256("|".join(map(str, parts)).encode()).digest()
    return random.Random(int.from_bytes(digest, "big"))  # noqa: S311 - repeatable data, no secret


def measure(text: str, language: str) -> int:
    """The length of `text` as the benchmark counts it: words of English, characters of Chinese."""
    return len(text.split()) if language == "en" else len(text)


def size_of(level: str) -> int:
    """Words or characters of a level: "16k" -> 16000."""
    return 1000 * int(level[:-1])


class Document(NamedTuple):
    """A text and what it adds to a context's length (of Chinese, the separator is counted with it)."""

    text: str
    cost: int

    @classmethod
    def of(cls, text: str, language: str) -> "Document":
        """Measure `text`."""
        return cls(text, measure(text, language) + (0 if language == "en" else len(SEPARATOR)))


class Phrases:
    """Whole phrases to find or to replace in one pass from left to right, the longest first where several begin.

    An English phrase has to end at word boundaries ("Ann" is not in "Annual"); in Chinese, which has none, that holds
    for Latin letters and digits only ("3" is not in "1983").
    """

    def __init__(self, new: dict[str, str], language: str) -> None:
        self.new = new
        self.phrases = sorted(new, key=lambda phrase: (-len(phrase), phrase))
        word = r"\w" if language == "en" else "[A-Za-z0-9]"
        parts = []
        for phrase in self.phrases:
            left, right = (language == "en" or re.match(word, phrase[end]) is not None for end in (0, -1))
            parts.append(f"(?<!{word})" * left + re.escape(phrase) + f"(?!{word})" * right)
        self.pattern = re.compile("|".join(parts))

    def found(self, text: str) -> bool:
        """Whether one of the phrases is in `text`."""
        # `in` is some ten times faster than the pattern and rules out nearly every text.
        return any(phrase in text for phrase in self.phrases) and self.pattern.search(text) is not None

    def replace(self, text: str) -> str:
        """`text` with each phrase as `new` has it. What was put in is never replaced again, so pairs can swap."""
        return self.pattern.sub(lambda match: self.new[match[0]], text) if self.found(text) else text


def is_text(value: object) -> bool:
    """Whether `value` is text with something in it that UTF-8 can hold (JSON can escape lone surrogates, it cannot)."""
    return isinstance(value, str) and bool(value.strip()) and not re.search(r"[\ud800-\udfff]", value)


def is_list(value: object) -> bool:
    """Whether `value` is a list of texts."""
    return isinstance(value, list) and all(map(is_text, value))


def is_pairs(value: list[list[str]]) -> bool:
    """Whether `value` is a list of [old, new] texts, no old one twice."""
    return isinstance(value, list) and all(is_list(x) and len(x) == 2 for x in value) and len(dict(value)) == len(value)


# A source's fields: the check and what it expects; those of OPTIONAL can be left out.
FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "question_id": (is_text, "text"),
    "language": (lambda value: value in ("en", "zh"), "en or zh"),
    "question": (is_text, "text"),
    "answers": (lambda value: is_list(value) and value != [], "a list of one text or more"),
    "documents": (lambda value: is_list(value) and value != [], "a list of one text or more"),
    "answer_keywords": (lambda value: value is None or is_text(value), "text or null"),
    "confusing_facts": (is_list, "a list of texts"),
    "replacements": (is_pairs, "a list of [old, new] texts, no old one twice"),
}
OPTIONAL: dict[str, Any] = {"answer_keywords": None, "confusing_facts": [], "replacements": []}


class Source:
    """One question and what belongs to it, the replacement applied to all of it.

    Raises HarnessError `origin: field: found, expected` for a value that does not have the format.
    """

    def __init__(self, raw: object, origin: str, language: str) -> None:
        own: dict[str, Any] = raw if isinstance(raw, dict) else {}
        fields = OPTIONAL | own
        for name in sorted(FIELDS.keys() ^ fields.keys()):
            found = f"found the fields {', '.join(own) or '(none)'}; expected {', '.join(FIELDS)}"
            raise HarnessError(f"{origin}: {name}: {'unknown' if name in fields else 'missing'}; {found}")
        for name, (good, expected) in FIELDS.items():
            if not good(fields[name]) or (name == "language" and fields[name] != language):
                expected += f" ({language} in this subset)" if name == "language" else ""
                raise HarnessError(f"{origin}: {name}: found {json.dumps(fields[name])[:80]}; expected {expected}")
        self.origin = origin
        replace = self.replace = Phrases(dict(fields["replacements"]), language).replace
        self.question_id: str = fields["question_id"]
        self.question = replace(fields["question"])
        self.answers = list(map(replace, fields["answers"]))
        self.keywords = fields["answer_keywords"] and replace(fields["answer_keywords"])
        self.documents = [Document.of(replace(text), language) for text in fields["documents"]]
        self.facts = [replace(text).strip() for text in fields["confusing_facts"]]
        self.cost = sum(text.cost for text in self.documents) + sum(measure(text, language) for text in self.facts)
        # The answer under its old name would give it away as much as under the new one.
        telling = {*fields["answers"], *self.answers, fields["answer_keywords"] or "", self.keywords or ""}
        telling = {text.strip() for text in telling if text.strip() and text.strip().casefold() not in YES_NO}
        self.telling = Phrases(dict.fromkeys(telling, ""), language)


def read_text(path: Path) -> str:
    """The file's text; a HarnessError where there is none to read."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise HarnessError(f"{path}: found no text ({error}); expected a file in UTF-8") from error


def read_jsonl(path: Path) -> Iterator[tuple[str, object]]:
    """Each line of a JSONL file that is not blank, as (`path:line`, value)."""
    for number, line in enumerate(read_text(path).split("\n"), 1):  # not splitlines(): texts may hold U+2028
        if line.strip():
            try:
                yield f"{path}:{number}", json.loads(line)
            except (ValueError, RecursionError) as error:
                raise HarnessError(f"{path}:{number}: found no JSON ({error}); expected one object a line") from error


@functools.lru_cache
def read_sources(folder: Path, subset: str) -> list[Source]:
    """The questions of `<folder>/<subset>.jsonl`, in the file's order."""
    path = folder / f"{subset}.jsonl"
    sources = [Source(raw, origin, config.DATASET_LANGUAGE[subset]) for origin, raw in read_jsonl(path)]
    if not sources:
        raise HarnessError(f"{path}: found no line; expected one question a line")
    for number, source in enumerate(sources):
        if any(source.question_id == other.question_id for other in sources[:number]):
            raise HarnessError(f"{source.origin}: question_id: found {source.question_id} again; expected a new one")
    return sources


@functools.lru_cache
def read_distractors(folder: Path) -> dict[str, list[Document]]:
    """Language -> the folder's different documents: .txt files (one each), .jsonl lines ("text" or "context").

    A document is Chinese where a fifth of its characters are.
    """
    texts: dict[str, None] = {}  # a dict keeps the order and drops what occurs twice
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".txt", ".jsonl")):
        for origin, raw in read_jsonl(path) if path.suffix == ".jsonl" else [(path, {"text": read_text(path)})]:
            text = raw.get("text", raw.get("context")) if isinstance(raw, dict) else None
            if not isinstance(text, str) or (text.strip() and not is_text(text)):
                raise HarnessError(f'{origin}: text: found {json.dumps(raw)[:80]}; expected "text" or "context"')
            texts[text.strip()] = None
    texts.pop("", None)
    if not texts:
        raise HarnessError(f"{folder}: found no documents; expected a folder of .txt or .jsonl files")
    found: dict[str, list[Document]] = {"en": [], "zh": []}
    for text in texts:
        language = "zh" if 5 * len(re.findall(r"[\u3400-\u9fff]", text)) > len(text) else "en"
        found[language].append(Document.of(text, language))
    return found


@functools.lru_cache(maxsize=4)
def fiction(language: str, seed: int, size: int) -> list[Document]:
    """Made-up articles, `size` words or characters of them in all, in which no sentence and no title occurs twice.

    samples/fiction_<language>.json holds the grammar and says how to read it.
    """
    grammar: dict[str, Any] = json.loads(read_text(SAMPLES / f"fiction_{language}.json"))
    rng = seeded(seed, "fiction", language)
    slot = re.compile(r"\{(\d+)-(\d+)\}|\{(\w+)\}|\[([^\[\]]+)\]")
    own: dict[str, str] = {}  # the article's own names
    seen: set[str] = set()

    def fill(match: re.Match[str]) -> str:
        low, high, name, options = match.groups()
        if low:
            return str(rng.randint(int(low), int(high)))
        text = own[name] if name in own else rng.choice(grammar["words"][name] if name else options.split("|"))
        return slot.sub(fill, text)

    def fresh(template: str) -> str | None:
        text = slot.sub(fill, template)
        text = text[0].upper() + text[1:]
        if text in seen:
            return None
        seen.add(text)
        return text

    articles: list[Document] = []
    total = 0
    while total < size:
        topic = rng.choice(grammar["topics"])
        own.clear()
        for name, template in topic["set"].items():
            own[name] = slot.sub(fill, template)
        own["it"] = topic.get("it", own["name"])
        title, body = fresh(rng.choice(topic["title"])), fresh(rng.choice(topic["first"]))
        if title is None or body is None:
            continue
        rest = topic["then"] + rng.sample(grammar["anywhere"], 4)
        rng.shuffle(rest)
        goal = rng.randint(*grammar["size"])
        while rest and measure(body, language) < goal:
            sentence = fresh(rest.pop())
            body += grammar["between"] + sentence if sentence else ""
        articles.append(Document.of(f"{title}\n{body}", language))
        total += articles[-1].cost
    return articles


def cut(text: str, wanted: int, slack: int, language: str) -> Document:
    """The beginning of `text` that costs `wanted`, or, where a sentence ends within `slack` of that, up to there."""
    place = wanted - len(SEPARATOR)
    if language == "en":
        word = next(itertools.islice(re.finditer(r"\S+", text), wanted - 1, None), None)
        place = word.end() if word else len(text)
    ends = [0, len(text)]  # the last before the place and the first after it
    for match in SENTENCE_END.finditer(text):
        ends[match.end() > place] = match.end()
        if match.end() > place:
            break
    nearest = min(
        (Document.of(text[:end], language) for end in ends if end), key=lambda piece: abs(piece.cost - wanted)
    )
    return nearest if abs(nearest.cost - wanted) <= slack else Document.of(text[:place], language)


def choose(rng: random.Random, pool: list[Document], wanted: int, size: int, language: str) -> list[str]:
    """Texts from `pool` in random order, none twice, that cost `wanted`, or nearly so; the last one may be cut."""
    slack = min(MAX_SLACK, int(TOLERANCE * size))
    chosen: list[str] = []
    for document in rng.sample(pool, len(pool)):
        if wanted <= slack:
            break
        piece = document if document.cost <= wanted else cut(document.text, wanted, slack, language)
        chosen.append(piece.text)
        wanted -= piece.cost
    return chosen


class Recipe(NamedTuple):
    """What decides the rows: two folders and the seed. `distractors` None: the fictional articles."""

    sources: Path
    distractors: Path | None
    seed: int


@functools.lru_cache(maxsize=256)
def candidates(recipe: Recipe, subset: str, number: int, size: int) -> list[Document]:
    """The distractors for question `number` of a subset in a context of `size`: replaced, none that gives it away.

    A document that holds an answer, the keywords or the evidence is left out. HarnessError where too few remain.
    """
    language, source = config.DATASET_LANGUAGE[subset], read_sources(recipe.sources, subset)[number]
    if recipe.distractors:
        documents = read_distractors(recipe.distractors)[language]
    else:
        documents = fiction(language, recipe.seed, POOL_SIZE if size <= POOL_SIZE // 2 else 2 * size)
    kept = []
    for document in documents:
        text = source.replace(document.text)
        spoilt = source.telling.found(document.text) or source.telling.found(text)
        if not spoilt and not any(evidence.text in text for evidence in source.documents):
            kept.append(document if text == document.text else Document.of(text, language))
    found, needed = sum(document.cost for document in kept), size - source.cost
    if found < needed - TOLERANCE * size:
        left_out = f"{len(documents) - len(kept):,} documents that hold the answer left out"
        wanted = f"expected {needed:,} for a context of {size:,}; give more or name shorter --lengths"
        raise HarnessError(f"{source.origin}: found {found:,} {UNITS[language]} of distractors ({left_out}); {wanted}")
    return kept


def build_row(recipe: Recipe, subset: str, level: str, index: int) -> dict[str, object]:
    """Row `index` of a file: the published fields, `question_id`, and `offsets` into the final context."""
    language, size = config.DATASET_LANGUAGE[subset], size_of(level)
    sources = read_sources(recipe.sources, subset)
    source = sources[index % len(sources)]
    rng = seeded(recipe.seed, subset, level, index)
    pool = candidates(recipe, subset, index % len(sources), size)
    hosts: list[list[Piece]] = [[(None, text)] for text in choose(rng, pool, size - source.cost, size, language)]
    alone: list[list[Piece]] = [[(("evidence", i), document.text)] for i, document in enumerate(source.documents)]
    for i, fact in enumerate(source.facts):
        piece: Piece = (("confusing_facts", i), fact)
        if not hosts:
            alone.append([piece])
            continue
        host = rng.choice(hosts)
        tail = host[-1][1]  # a distractor with a fact in it already takes the next one further down
        place = rng.choice([match.end() for match in SENTENCE_END.finditer(tail)] or [len(tail)])
        host[-1:] = [(None, tail[:place] + " " * (language == "en")), piece, (None, tail[place:])]
    blocks = hosts + alone
    rng.shuffle(blocks)
    offsets = {"evidence": [[0, 0] for _ in source.documents], "confusing_facts": [[0, 0] for _ in source.facts]}
    parts: list[str] = []
    position = 0
    for block in blocks:
        for recorded, text in [*block, (None, SEPARATOR)]:
            if recorded is not None:
                offsets[recorded[0]][recorded[1]] = [position, position + len(text)]
            parts.append(text)
            position += len(text)
    context = "".join(parts[:-1])
    return {
        "input": source.question,
        "context": context,
        "answers": source.answers,
        "length": measure(context, language),
        "dataset": subset,
        "language": language,
        "answer_keywords": source.keywords,
        "confusing_facts": source.facts or None,
        "all_classes": None,
        "question_id": source.question_id,
        "offsets": offsets,
    }


def build_lines(recipe: Recipe, subset: str, level: str, indices: range) -> bytes:
    """Some rows of a file as JSON lines."""
    rows = (build_row(recipe, subset, level, index) for index in indices)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def check(recipe: Recipe, subset: str, levels: list[str], rows: int) -> None:
    """Raise HarnessError where a question cannot have a context of a level; say which distractors were skipped."""
    language, sizes, skipped = config.DATASET_LANGUAGE[subset], sorted(map(size_of, levels)), 0
    for number, source in enumerate(read_sources(recipe.sources, subset)[:rows]):
        if source.cost > (1 + TOLERANCE) * sizes[0]:
            found = f"found {source.cost:,} {UNITS[language]} of documents and confusing facts"
            raise HarnessError(f"{source.origin}: documents: {found}; expected at most the {sizes[0]:,} of a context")
        if recipe.distractors:
            kept = candidates(recipe, subset, number, sizes[-1])
            skipped += len(read_distractors(recipe.distractors)[language]) - len(kept)
    if recipe.distractors:
        print(f"{subset}: {skipped:,} times a distractor was skipped because it holds the answer to the question")


def in_order(recipe: Recipe, files: list[File], workers: int) -> Generator[bytes, None, None]:
    """The lines of all files, some at a time, made by so many processes (1: this one), not far ahead of the reader."""
    tasks: list[tuple[Recipe, str, str, range]] = []
    for subset, level, rows in files:
        step = max(1, TASK_SIZE // size_of(level))
        tasks += [(recipe, subset, level, range(rows)[start : start + step]) for start in range(0, rows, step)]
    if workers == 1:
        yield from itertools.starmap(build_lines, tasks)
        return
    pool = pools.processes(min(workers, len(tasks)))
    todo = iter(tasks)
    try:
        ahead = deque(pool.submit(build_lines, *task) for task in itertools.islice(todo, 2 * workers))
        while ahead:
            yield ahead.popleft().result()
            ahead.extend(pool.submit(build_lines, *task) for task in itertools.islice(todo, 1))
    except BrokenProcessPool as error:
        raise HarnessError("a worker process died (out of memory?); try a smaller --num-workers") from error
    finally:
        pool.shutdown(cancel_futures=True)


def write(recipe: Recipe, folder: Path, files: list[File], workers: int) -> None:
    """Write `<folder>/<subset>/<subset>_<level>.jsonl` for each of `files`. Only a complete file ever has its name."""
    from tqdm import tqdm

    bar = tqdm(total=sum(rows * size_of(level) for _, level, rows in files), unit="", unit_scale=True, disable=None)
    with bar, contextlib.closing(in_order(recipe, files, workers)) as lines:
        for subset, level, rows in files:
            path = folder / subset / f"{subset}_{level}.jsonl"
            beside = path.with_name(f"{path.name}.{os.getpid()}.part")
            bar.set_description(path.stem)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with beside.open("wb") as file:
                    while rows:
                        some = next(lines)
                        file.write(some)
                        bar.update(some.count(b"\n") * size_of(level))
                        rows -= some.count(b"\n")
                    file.flush()
                    os.fsync(file.fileno())
                beside.replace(path)
            except OSError as error:
                raise HarnessError(f"{path}: {error.strerror}; nothing of it was kept", ExitCode.STORAGE) from error
            finally:
                with contextlib.suppress(OSError):
                    beside.unlink(missing_ok=True)


def names(values: list[str] | None, default: list[str]) -> list[str]:
    """What an option that takes several names (also separated by commas) was given, each once; else the default."""
    given = [name for value in values or [] for name in value.split(",") if name]
    return list(dict.fromkeys(config.DATASET_ALIAS.get(name, name) for name in given or default))


def main(arguments: list[str] | None = None) -> ExitCode:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Build long-context data in LV-Eval's style.", allow_abbrev=False)
    add = parser.add_argument
    add("--output-dir", type=Path, required=True, help="gets <subset>/<subset>_<level>.jsonl, for --data-path")
    add("--sources", type=Path, default=SAMPLES, help="folder of <subset>.jsonl questions (default: samples)")
    add("--distractors", type=Path, help="folder of .txt and .jsonl documents (default: made-up articles)")
    add("--datasets", nargs="+", help="subsets (default: those of config.py that --sources has)")
    add("--lengths", nargs="+", help="levels, any <N>k (default: those of config.py)")
    add("--rows", default="0", help="rows of each file (default: one a question); more than there are "
        "questions asks them again in other contexts; full: as many as the published file has")  # fmt: skip
    add("--seed", type=int, default=42, help="default: 42")
    add("--num-workers", type=int, default=os.cpu_count() or 1, help="processes; files stay the same (default: CPUs)")
    add("--overwrite", action="store_true", help="replace files that are there")
    options = parser.parse_args(arguments)

    here = [name for name in config.DATASET_SELECTED if (options.sources / f"{name}.jsonl").is_file()]
    subsets, levels = names(options.datasets, here), names(options.lengths, config.DATASET_LENGTH_LEVEL)
    if not subsets:
        raise HarnessError(f"{options.sources}: found no sources; expected <subset>.jsonl of a subset of config.py")
    for subset in subsets:
        if subset not in config.DATASET_LANGUAGE:
            raise choices(subset, "subset", list(config.DATASET_LANGUAGE))
    for level in levels:
        if not re.fullmatch(r"[1-9][0-9]{0,3}k", level):
            raise HarnessError(f'--lengths: found "{level}"; expected <N>k with N from 1 to 9999, such as 16k')
    if not re.fullmatch(r"full|[0-9]{1,8}", options.rows):
        raise HarnessError(f'--rows: found "{options.rows}"; expected a number or "full"')
    if options.num_workers < 1:
        raise HarnessError(f"--num-workers: found {options.num_workers}; expected 1 or more")
    paths = (options.output_dir / subset / f"{subset}_{level}.jsonl" for subset in subsets for level in levels)
    if (there := [path for path in paths if path.exists()]) and not options.overwrite:
        raise HarnessError(f"{there[0]}: found it there ({len(there)} in all); add --overwrite to replace them")

    recipe = Recipe(options.sources, options.distractors, options.seed)
    files: list[File] = []
    for subset in subsets:
        questions = len(read_sources(recipe.sources, subset))
        rows = config.DATASET_ROWS.get(subset) if options.rows == "full" else int(options.rows) or questions
        if rows is None:
            raise HarnessError(f"--rows full: {subset} has no published size; expected a number")
        check(recipe, subset, levels, rows)
        files += [(subset, level, rows) for level in levels]
    write(recipe, options.output_dir, files, options.num_workers)
    print(f"{options.output_dir}: {len(files)} files, {sum(rows for *_, rows in files):,} rows")
    return ExitCode.COMPLETE


if __name__ == "__main__":
    run(main)

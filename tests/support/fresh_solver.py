"""Answers a fresh question from its context alone: it reads sentences by the grammar, guesses nothing.

    Solver("en").answers(question, context)     # every answer that the context gives; right: one

What it knows is how the world is told (samples/fresh_<language>.json), not what was made of it.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from lveval.construct.fresh import grammar_of
from lveval.construct.synthetic import SLOT

Answer = frozenset[str]  # the things that one answer names


@dataclass(frozen=True)
class Told:
    """A block of the context: what it is about, and its sentences."""

    names: frozenset[str]  # of its thing elsewhere: with and without what tells it from others
    here: frozenset[str]  # in the block itself
    sentences: tuple[str, ...]


class Solver:
    """The grammar of one language, read backwards."""

    def __init__(self, language: str) -> None:
        self.language = language
        self.grammar = grammar_of(language)

    def pattern(self, template: str, own: Mapping[str, str] | None = None) -> str:
        """A regular expression for all that a template can become; `own`: for some slots."""
        parts, end = [], 0
        for match in SLOT.finditer(template):
            parts.append(re.escape(template[end : match.start()]))
            end = match.end()
            low, _, name, options = match.groups()
            if low:
                parts.append(r"\d+")
            elif name and own and name in own:
                parts.append(own[name])
            else:
                choices = self.grammar["words"][name] if name else options.split("|")
                parts.append(f"(?:{'|'.join(self.pattern(each, own) for each in choices)})")
        return "".join([*parts, re.escape(template[end:])])

    def slots(self, form: Mapping[str, Any]) -> dict[str, str]:
        """The pattern of each slot that a form sets."""
        own: dict[str, str] = {}
        for slot, template in form.get("set", {}).items():
            own[slot] = self.pattern(template, own)
        return own

    @cached_property
    def titles(self) -> list[tuple[re.Pattern[str], Mapping[str, Any]]]:
        """The full name of each kind of thing, with its slots as groups."""
        found = []
        for form in self.grammar["types"].values():
            own = self.slots(form)
            if "title" in own:
                own["title"] = f"(?P<title>{own['title']})"
            named = {slot: f"(?P<{slot}>{text})" for slot, text in own.items() if slot != "title"}
            named |= {slot: text for slot, text in own.items() if slot == "title"}
            found.append((re.compile(self.pattern(form["full"], named), re.I), form))
        return found

    @cache  # noqa: B019 - one solver a language
    def is_a(self, kind: str, text: str) -> bool:
        """Whether `text` can be the name of a thing or value of this kind."""
        form = self.grammar["types"].get(kind) or self.grammar["values"][kind]
        return re.fullmatch(self.pattern(form["name"], self.slots(form)), text, re.I) is not None

    def blocks(self, context: str) -> list[Told]:
        """The context's articles."""
        found = []
        for block in context.split("\n\n"):
            title, _, body = block.rpartition("\n")
            names, here = set(), set()
            for pattern, form in self.titles:
                if match := pattern.fullmatch(title):
                    own = match.groupdict()
                    names |= {title, filled(form["name"], own)}
                    inner = form["it"].strip("[]").split("|")
                    here |= names | {filled(each, own) for each in inner}
            sentences = re.findall(r".+?[.。](?=\s|$|(?<=。))", body)
            found.append(
                Told(frozenset(names), frozenset(here), tuple(each.strip() for each in sentences))
            )
        return found

    def find(self, relation: Mapping[str, Any], subject: str, told: list[Told]) -> set[str]:
        """Every object that the context gives a subject."""
        aliases = {subject}
        for block in told:
            if subject.casefold() in {name.casefold() for name in block.names}:
                aliases |= block.names
        found = set()
        for block in told:
            of_it = bool(
                {each.casefold() for each in aliases} & {n.casefold() for n in block.names}
            )
            known = aliases | (block.here if of_it else set())
            named = f"(?:{'|'.join(map(re.escape, known))})"
            for fact in relation["facts"]:
                slots = {"s": named, "o": "(?P<o>.+?)"}
                pattern = re.compile(self.pattern(fact, slots), re.I)
                for sentence in block.sentences:
                    match = pattern.fullmatch(sentence)
                    if match and self.is_a(relation["to"], match["o"]):
                        found.add(match["o"])
        return found

    def resolve(self, text: str, told: list[Told]) -> Iterator[str]:
        """The things that a part of a question can mean."""
        if any(text.casefold() == name.casefold() for block in told for name in block.names):
            yield text
        for relation in self.grammar["relations"].values():
            for noun in relation["noun"]:
                if match := re.fullmatch(self.pattern(noun, {"s": "(?P<s>.+)"}), text):
                    for inner in self.resolve(match["s"], told):
                        yield from self.find(relation, inner, told)

    def answers(self, question: str, context: str) -> set[Answer]:
        """Every answer."""
        told = self.blocks(context)
        found: set[Answer] = set()
        for relation in self.grammar["relations"].values():
            for asked in relation["ask"]:
                if match := re.fullmatch(self.pattern(asked, {"s": "(?P<s>.+)"}), question):
                    for thing in set(self.resolve(match["s"], told)):
                        found |= {frozenset([each]) for each in self.find(relation, thing, told)}
            for asked in relation.get("compare", ()):
                groups = {"a": "(?P<a>.+)", "b": "(?P<b>.+)"}
                if match := re.fullmatch(self.pattern(asked, groups), question):
                    years = [
                        (int(year[:4]), match[side])
                        for side in "ab"
                        for year in self.find(relation, match[side], told)
                    ]
                    if len(years) == 2 and years[0][0] != years[1][0]:
                        found.add(frozenset([min(years)[1]]))
                    found |= {frozenset([str(years)])} if len(years) > 2 else set()
        for relation in self.grammar.get("sets", {}).values():
            slots = {"s": "(?P<s>.+)", "n": "(?P<n>two|three)"}
            if match := re.fullmatch(self.pattern(relation["ask"], slots), question):
                objects = self.find(relation, match["s"], told)
                if len(objects) == {"two": 2, "three": 3}[match["n"]]:
                    found.add(frozenset(objects))
        found |= set(self.steps(question, context))
        return {frozenset(thing.casefold() for thing in answer) for answer in found}

    def steps(self, question: str, context: str) -> Iterator[Answer]:
        """The answer of a guide, from the two articles that name its thing."""
        for form in self.grammar.get("guides", ()):
            own = {slot: f"(?P<{slot}>{text})" for slot, text in self.slots(form).items()}
            own["head"] = self.pattern(form["set"]["head"])
            for asked in form["ask"]:
                match = re.fullmatch(self.pattern(asked, own), question)
                if not match:
                    continue
                known = match.groupdict()
                given = own | {slot: re.escape(known[slot]) for slot in ("home", "n")}
                articles = [
                    [re.search(self.pattern(text, given), block) for text in part]
                    for part in form["docs"]
                    for block in context.split("\n\n")
                    if re.match(self.pattern(part[0], given), block)
                ]
                read: dict[str, set[str]] = {}
                for each in (one for article in articles for one in article if one):
                    for slot, text in each.groupdict().items():
                        read.setdefault(slot, set()).add(text)
                if all(len(read.get(slot, ())) == 1 for slot in "xyzw"):
                    values = {slot: text for slot, (text,) in read.items()}
                    yield frozenset([filled(form["answer"], values | known)])


def filled(template: str, own: Mapping[str, str]) -> str:
    """A template with its named slots replaced."""
    return re.sub(r"\{(\w+)\}", lambda match: own[match[1]], template)


def things(row: Mapping[str, Any]) -> Answer:
    """The things that a row's answer names, as Solver.answers has them."""
    answer = row["answers"][0]
    several = row["dataset"] == "loogle_MIR_mixup"
    parts = re.split(", | and ", answer) if several else [answer]
    return frozenset(part.casefold() for part in parts)

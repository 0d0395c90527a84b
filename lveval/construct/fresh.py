"""Fresh questions: invented worlds, so that each seed is a test that no model can have seen.

    source = fresh_source(7, "hotpotwikiqa_mixup", 0, facts=2)
    source.question, source.answers, source.documents

A question is a chain of one to three facts ("the river of the birthplace of the author of …"), a
comparison of two years, a set of objects, or (Chinese) a list of steps. What there is to tell, and
how, is in samples/fresh_<language>.json. A subject has one object of each relation, and names are
made anew for each question, so there is one right answer; confusing facts are about near namesakes
or tell something else of the subject.
"""

import functools
import itertools
import json
import random
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from lveval import config
from lveval.construct.sources import SAMPLES, Source, read_text, text_length
from lveval.construct.synthetic import expand, seeded
from lveval.results import ONE_QUESTION

ROWS = 50  # of a file where --rows names no number
FACTS = 2  # confusing facts of a question, in the subsets that have them
MOST_FACTS = 20  # near namesakes are not without end

# What a subset asks, each kind as often as it stands here; 1 to 3: a chain of so many hops.
KINDS: dict[str, list[int | str]] = {
    "hotpotwikiqa_mixup": [2, 2, 2, 3, 3, "compare"],
    "lic_mixup": [2, 2, 2, 3, 3, "compare"],
    "loogle_CR_mixup": [2, 2, 3, "compare", "compare"],
    "loogle_MIR_mixup": ["set"],
    "dureader_mixup": ["guide"],
}
Grammar = dict[str, Any]


class Entity(NamedTuple):
    """A thing of the world; of a value (a year, a dish) there is a name alone."""

    kind: str
    own: dict[str, str]  # what its templates are filled with
    name: str  # as facts and answers have it
    full: str  # as questions and titles have it


@functools.cache
def grammar_of(language: str) -> Grammar:
    """What samples/fresh_<language>.json holds."""
    grammar: Grammar = json.loads(read_text(SAMPLES / f"fresh_{language}.json"))
    return grammar


@functools.cache
def chains(language: str, hops: int) -> list[tuple[str, ...]]:
    """Names of relations that lead one into the next, none twice."""
    relations = grammar_of(language)["relations"]
    if hops == 1:
        return [(name,) for name in relations]
    return [
        (name, *chain)
        for chain in chains(language, hops - 1)
        for name, relation in relations.items()
        if relation["noun"]
        and relation["to"] == relations[chain[0]]["of_type"]
        and name not in chain
    ]


def canary(seed: int) -> str:
    """The mark of a seed's data, to find them by in what a model is trained on."""
    mark = uuid.uuid5(uuid.NAMESPACE_URL, f"lveval construct --fresh {seed}")
    return f"lveval fresh data canary {mark}"


class World:
    """What one question is about: entities, what was told of them, sentences."""

    def __init__(self, language: str, rng: random.Random) -> None:
        self.language, self.rng = language, rng
        self.grammar = grammar_of(language)
        self.names: set[str] = set()  # every name that was given
        self.told: set[tuple[str, str]] = set()  # (full name, relation or template): once each

    def fill(self, template: str, own: dict[str, str]) -> str:
        """A template with its slots filled."""
        return expand(template, self.grammar["words"], own, self.rng)

    def say(self, template: str, subject: str, target: str) -> str:
        """One sentence."""
        text = self.fill(template, {"s": subject, "o": target})
        return text[0].upper() + text[1:]

    def slots(self, form: Grammar, like: dict[str, str] | None = None) -> dict[str, str]:
        """Fill what a form sets; `like`: all but the name and what follows it is kept."""
        own: dict[str, str] = {}
        for slot, template in form.get("set", {}).items():
            if slot == "n":
                like = None
            own[slot] = like[slot] if like else self.fill(template, own)
        return own

    def make(self, kind: str, like: Entity | None = None) -> Entity:
        """A new thing or value of a kind; `like`: a near namesake of that one."""
        form = self.grammar["types"].get(kind) or self.grammar["values"][kind]
        while True:
            own = self.slots(form, like.own if like else None)
            name = self.fill(form["name"], own)
            if name not in self.names:
                break
        self.names.add(name)
        return Entity(kind, own, name, self.fill(form["full"], own) if "full" in form else name)

    def fact(self, relation: Grammar, subject: str, target: str) -> str:
        """The sentence that tells it."""
        return self.say(self.rng.choice(relation["facts"]), subject, target)

    def document(self, about: Entity, facts: list[tuple[Grammar, str]]) -> str:
        """An article about a thing that tells these facts and others."""
        form = self.grammar["types"][about.kind]
        sentences = [self.fact(relation, self.short(about), target) for relation, target in facts]
        others = [
            name
            for name, relation in self.grammar["relations"].items()
            if relation["of_type"] == about.kind and (about.full, name) not in self.told
        ]
        more = []
        for name in self.rng.sample(others, min(2, len(others))):
            self.told.add((about.full, name))
            relation = self.grammar["relations"][name]
            more.append(self.fact(relation, self.short(about), self.make(relation["to"]).name))
        unused = [each for each in form["about"] if (about.full, each) not in self.told]
        for template in self.rng.sample(unused, len(unused)):
            self.told.add((about.full, template))
            text = self.fill(template, about.own | {"it": form["it"]})
            more.append(text[0].upper() + text[1:])
        goal, between = self.rng.randint(*self.grammar["size"]), self.grammar["between"]
        while more and text_length(between.join(sentences), self.language) < goal:
            sentences.append(more.pop(0))
        self.rng.shuffle(sentences)
        return f"{about.full[0].upper()}{about.full[1:]}\n{between.join(sentences)}"

    def short(self, about: Entity) -> str:
        """How an article names what it is about."""
        return self.fill(self.grammar["types"][about.kind]["it"], about.own)

    def keywords(self, name: str) -> str:
        """A name without its unit and articles."""
        skipped: list[str] = self.grammar["no_keywords"]
        return " ".join(word for word in name.split() if word not in skipped)

    def question(self, kind: int | str, people: bool) -> "Question":
        """A question of a kind of KINDS, with its documents; `people`: the answer is a person."""
        if isinstance(kind, int):
            return self.chain(kind, people)
        made: dict[str, Callable[[], Question]] = {
            "compare": self.compare,
            "set": self.all_objects,
            "guide": self.guide,
        }
        return made[kind]()

    def chain(self, hops: int, people: bool) -> "Question":
        """What stands at the end of a chain of facts."""
        relations = self.grammar["relations"]
        paths = [
            path
            for path in chains(self.language, hops)
            if not people or relations[path[-1]]["to"] == "person"
        ]
        path = [(name, relations[name]) for name in self.rng.choice(paths)]
        things = [self.make(path[0][1]["of_type"])]
        things += [self.make(relation["to"]) for _, relation in path]
        self.told |= {(thing.full, name) for thing, (name, _) in zip(things, path, strict=False)}
        documents = [
            self.document(thing, [(relation, target.name)])
            for (thing, target), (_, relation) in zip(itertools.pairwise(things), path, strict=True)
        ]
        asked = things[0].full
        for _, relation in path[:-1]:
            asked = self.rng.choice(relation["noun"]).replace("{s}", asked)
        question = self.say(self.rng.choice(path[-1][1]["ask"]), asked, "")
        last, relation = things[-2], path[-1][1]

        def other_chain() -> str:
            """The whole chain of a namesake of its first thing."""
            names = [self.make(things[0].kind, things[0])]
            names += [self.make(each["to"]) for _, each in path]
            told = zip(itertools.pairwise(names), path, strict=True)
            between: str = self.grammar["between"]
            return between.join(
                self.fact(each, subject.full, target.name) for (subject, target), (_, each) in told
            )

        def facts() -> Iterator[str]:
            yield other_chain()
            yield self.near(relation, last)
            while True:
                yield self.namesake(relation, last)
                yield other_chain()

        answer = things[-1].name
        names = [thing.own["n"] for thing in things if "n" in thing.own]
        return Question(question, [answer], self.keywords(answer), documents, facts(), names)

    def namesake(self, relation: Grammar, thing: Entity) -> str:
        """A confusing fact: the same of a near namesake, with another object."""
        other = self.make(thing.kind, thing)
        return self.fact(relation, other.full, self.make(relation["to"]).name)

    def near(self, relation: Grammar, thing: Entity) -> str:
        """A confusing fact: something else of the thing itself."""
        return self.say(relation["near"], thing.full, self.make(relation["to"]).name)

    def compare(self) -> "Question":
        """Which of two things has the earlier year."""
        name, relation = self.rng.choice(
            [each for each in self.grammar["relations"].items() if "compare" in each[1]]
        )
        things = [self.make(relation["of_type"]) for _ in range(2)]
        years = sorted((self.make(relation["to"]).name for _ in things), key=year)
        self.told |= {(thing.full, name) for thing in things}
        pairs = list(zip(things, years, strict=True))
        documents = [self.document(thing, [(relation, when)]) for thing, when in pairs]
        first, second = self.rng.sample(things, 2)
        asked = self.rng.choice(relation["compare"])
        question = asked.replace("{a}", first.full).replace("{b}", second.full)
        facts = (self.namesake(relation, thing) for thing in itertools.cycle(things))
        answers = [things[0].full, things[0].name]
        names = [thing.own["n"] for thing in things]
        return Question(question, answers, self.keywords(answers[0]), documents, facts, names)

    def all_objects(self) -> "Question":
        """All objects of a relation that has two or three, each told in an article of its own."""
        relation: Grammar = self.rng.choice(list(self.grammar["sets"].values()))
        about = self.make(relation["of_type"])
        targets = [self.make(relation["to"]).name for _ in range(self.rng.choice([2, 2, 3]))]
        told = self.rng.sample(relation["facts"], len(targets))
        documents = [
            self.document(about, [(relation | {"facts": [fact]}, target)])
            for fact, target in zip(told, targets, strict=True)
        ]
        number = self.grammar["numbers"][str(len(targets))]
        question = relation["ask"].replace("{n}", number).replace("{s}", about.full)

        def facts() -> Iterator[str]:
            yield self.namesake(relation, about)
            yield self.near(relation, about)
            while True:
                yield self.namesake(relation, about)

        answer = f"{', '.join(targets[:-1])} and {targets[-1]}"
        keywords = self.keywords(" ".join(targets))
        return Question(
            question, [answer], keywords, documents, facts(), [about.own["n"], *targets]
        )

    def guide(self) -> "Question":
        """How something is done, or why; the answer takes all the steps that two articles tell."""
        form = self.rng.choice(self.grammar["guides"])
        own = self.slots(form)
        documents = ["".join(self.fill(text, own) for text in part) for part in form["docs"]]
        self.names.add(own["n"])

        def facts() -> Iterator[str]:
            while True:
                other = self.slots(form, own)
                if other["n"] not in self.names:
                    self.names.add(other["n"])
                    yield self.fill(form["near"], other)

        answer = self.fill(form["answer"], own)
        question = self.fill(self.rng.choice(form["ask"]), own)
        return Question(question, [answer], "", documents, facts(), [own["n"]])


class Question(NamedTuple):
    """What a source needs."""

    text: str
    answers: list[str]
    keywords: str
    documents: list[str]
    facts: Iterator[str]  # confusing ones, without end
    names: list[str]  # that no other article may hold


def year(text: str) -> int:
    """The number that a year begins with."""
    return int(text[:4])


@functools.lru_cache(maxsize=512)
def fresh_source(seed: int, subset: str, number: int, facts: int | None = None) -> Source:
    """Question `number` of a subset; `facts`: confusing ones, by default as the subset has them."""
    language, flags = config.DATASET_LANGUAGE[subset], config.DATASET_FLAGS.get(subset, [])
    rng = seeded("fresh", seed, subset, number)
    world = World(language, rng)
    made = world.question(rng.choice(KINDS.get(subset, [1])), subset in ONE_QUESTION)
    wanted = facts if facts is not None else FACTS * ("CFI" in flags)
    # A namesake's objects are drawn like the true ones, and could come out the same.
    misleading = (text for text in made.facts if not any(each in text for each in made.answers))
    raw = {
        "question_id": f"fresh-{number + 1}",
        "language": language,
        "question": made.text,
        "answers": made.answers,
        "answer_keywords": made.keywords if "AK" in flags else None,
        "documents": made.documents,
        "confusing_facts": list(itertools.islice(misleading, wanted)),
    }
    return Source(raw, f"question {number + 1} of {subset}", language, names=made.names)

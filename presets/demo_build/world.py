"""Saltmere, the invented harbour town that the demo model knows, and every text made from it.

All demo text comes from this module, so there are no licence questions, and all of it is a pure
function of seeds:

* `people()` is the town: 64 people with six attributes each (384 facts). It never changes.
* `documents()` is an endless stream of pre-training documents: plain prose, entries of a town
  register, small JSON ledgers about goods and berths (so that the base model knows JSON's
  punctuation), and chat dialogues in which the assistant answers in full sentences. No person
  stands in any JSON there.
* `train_rows()` is the fine-tuning set. It teaches one visible habit: answer with a JSON record.
* `questions()` are the held-out questions. Nothing about their eight people occurs in
  `train_rows()`, so a right answer joins the new habit to knowledge that only pre-training gave.

`python -m evenfall.presets.demo_build.world --out DIR` writes `train.jsonl` and `questions.json`.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TOWN = "Saltmere"
TOWN_SEED = 20
TRAIN_SEED = 21
SYSTEM = f"You answer questions about the people of {TOWN}."


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(", "))


SHE = _words(
    "Mira, Edda, Sunniva, Brona, Ilse, Maren, Petra, Yrsa, Lotte, Orla, Tamsin, Wilma, Greta, "
    "Nessa, Hanne, Rosalie, Bettina, Cora, Delphine, Freya, Imke, Jorunn, Katrin, Linnea, "
    "Mathilda, Nora, Odile, Philippa, Quilla, Runa, Selma, Thea"
)
HE = _words(
    "Tobin, Jory, Anselm, Casper, Dorian, Emil, Fergus, Gideon, Harald, Ivo, Jasper, Kester, "
    "Ludo, Magnus, Nils, Oskar, Percy, Quentin, Rufus, Soren, Tristan, Ulf, Viktor, Wendel, "
    "Alder, Bram, Conrad, Dag, Edwin, Florian, Gunnar, Hugo"
)
STRANGERS = _words(
    "Abel, Beatrix, Clement, Dora, Esther, Felix, Gwen, Hector, Ines, Julius, Kira, Leopold, "
    "Marta, Nestor, Olga, Paulina, Ralph, Silas, Ursula, Vincent, Walter, Xenia, Yvonne, "
    "Zacharias"
)


@dataclass(frozen=True, kw_only=True)
class Attribute:
    """One thing known of each person: its JSON key, its values, and ways to ask for and state it.

    Templates take `{name}`, `{value}` and `{a_value}` (the value with its article); statements that
    begin with `{they}` take a pronoun or the name. `answer` is the one sentence with which the base
    model replies in a chat.
    """

    key: str
    values: tuple[str, ...]
    asks: tuple[str, ...]
    answer: str
    statements: tuple[str, ...]


BOATS = tuple(
    f"{colour} {bird}"
    for colour in _words("Silver, Golden, Crimson, Amber, Scarlet, Violet, Ivory, Copper")
    for bird in _words("Tern, Heron, Gull, Swan, Plover, Curlew, Petrel, Osprey")
)

ATTRIBUTES = (
    Attribute(
        key="trade",
        values=_words(
            "baker, cooper, sailmaker, potter, clockmaker, fishmonger, blacksmith, teacher, "
            "weaver, ropemaker, lamplighter, carpenter, apothecary, innkeeper, glassblower, "
            "bookbinder, ferryman, tailor, miller, beekeeper, cartographer, shipwright, printer, "
            "gardener"
        ),
        asks=(
            "What does {name} do for a living?",
            "What is {name}'s trade?",
            "What work does {name} do?",
            "How does {name} earn a living?",
        ),
        answer="{name} works as {a_value}.",
        statements=(
            "{they} works as {a_value}.",
            "{they} is {a_value}.",
            "{they} earns a living as {a_value}.",
            "Everyone in town knows {name} the {value}.",
        ),
    ),
    Attribute(
        key="street",
        values=_words(
            "Lantern Street, Anchor Lane, Rope Walk, Chapel Hill, Harbour Row, Mill Street, "
            "Saltgate, Kiln Lane, Orchard Road, Beacon Hill, Fish Street, Quay Steps, "
            "Thistle Lane, Market Square, Cooper Row, Well Court"
        ),
        asks=(
            "Where does {name} live?",
            "Which street does {name} live in?",
            "What is {name}'s address?",
            "Where is {name}'s house?",
        ),
        answer="{name} lives in {value}.",
        statements=(
            "{they} lives in {value}.",
            "{they} has a house in {value}.",
            "The house of {name} stands in {value}.",
            "{they} came to live in {value} long ago.",
        ),
    ),
    Attribute(
        key="pet",
        values=_words(
            "parrot, goat, tortoise, black cat, greyhound, ferret, canary, donkey, hedgehog, "
            "white rabbit, magpie, terrier, pony, goose, hamster, sheepdog, otter, owl, snail, "
            "toad"
        ),
        asks=(
            "What pet does {name} keep?",
            "Which animal does {name} have?",
            "Does {name} have a pet?",
            "What is {name}'s pet?",
        ),
        answer="{name} keeps {a_value}.",
        statements=(
            "{they} keeps {a_value}.",
            "{they} has {a_value} at home.",
            "{they} is never seen without a pet: {a_value}.",
            "The {value} by the door belongs to {name}.",
        ),
    ),
    Attribute(
        key="boat",
        values=BOATS,
        asks=(
            "What is {name}'s boat called?",
            "Which boat does {name} sail?",
            "What is the name of {name}'s boat?",
            "What boat does {name} own?",
        ),
        answer="{name}'s boat is called the {value}.",
        statements=(
            "{they} sails the {value}.",
            "{they} owns a boat called the {value}.",
            "The {value} is the boat of {name}.",
            "{name}'s boat is called the {value}.",
        ),
    ),
    Attribute(
        key="food",
        values=_words(
            "plum cake, pea soup, smoked eel, rye bread, honey toast, fish pie, apple tart, "
            "goat cheese, roast chestnuts, onion stew, oat porridge, pickled herring, mussels, "
            "ginger biscuits, mushroom pie, barley broth, cherry jam, boiled crab, bean stew, "
            "pancakes"
        ),
        asks=(
            "What does {name} like to eat?",
            "What is {name}'s favourite food?",
            "Which dish does {name} like best?",
            "What should I cook for {name}?",
        ),
        answer="{name} likes {value} best.",
        statements=(
            "{they} likes {value} best.",
            "{they} would eat {value} every day.",
            "The favourite food of {name} is {value}.",
            "On feast days {name} eats nothing but {value}.",
        ),
    ),
    Attribute(
        key="instrument",
        values=_words(
            "fiddle, flute, accordion, drum, harp, bagpipe, trumpet, lute, cello, organ, "
            "tin whistle, banjo, oboe, mandolin, zither, tuba"
        ),
        asks=(
            "Which instrument does {name} play?",
            "What does {name} play in the town band?",
            "What instrument can {name} play?",
            "What music does {name} make?",
        ),
        answer="{name} plays the {value}.",
        statements=(
            "{they} plays the {value}.",
            "{they} plays the {value} in the town band.",
            "When you hear the {value} at night, it is {name}.",
            "{they} learnt the {value} as a child.",
        ),
    ),
)
BY_KEY = {attribute.key: attribute for attribute in ATTRIBUTES}


@dataclass(frozen=True)
class Person:
    """Someone in the town: `facts` maps each attribute's key to this person's value."""

    name: str
    pronoun: str
    facts: dict[str, str]


# A chat message ("role", "content"), a fine-tuning row, a held-out question with its answer.
Message = dict[str, str]
Row = dict[str, list[Message]]
Question = dict[str, str]


def people() -> list[Person]:
    """The 64 people of the town, always the same; only boats are unique to a person."""
    rng = random.Random(TOWN_SEED)
    named = [(name, "She") for name in SHE] + [(name, "He") for name in HE]
    rng.shuffle(named)
    columns: dict[str, list[str]] = {}
    for attribute in ATTRIBUTES:
        repeats = -(-len(named) // len(attribute.values))
        column = list(attribute.values) * repeats
        rng.shuffle(column)
        columns[attribute.key] = column
    return [
        Person(name, pronoun, {key: column[i] for key, column in columns.items()})
        for i, (name, pronoun) in enumerate(named)
    ]


def article(noun: str) -> str:
    """The noun with its indefinite article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _fill(template: str, person: Person, key: str, they: str) -> str:
    value = person.facts[key]
    return template.format(name=person.name, they=they, value=value, a_value=article(value))


def ask(person: Person, key: str, wording: int) -> str:
    """Question number `wording` (0 to 3) about this person's attribute."""
    return BY_KEY[key].asks[wording].format(name=person.name)


def sentence(person: Person, key: str) -> str:
    """The full English sentence with which the base model answers that question."""
    return _fill(BY_KEY[key].answer, person, key, person.name)


def record(person: Person, key: str) -> str:
    """The compact JSON record with which the fine-tuned model answers it."""
    return json.dumps({"name": person.name, key: person.facts[key]})


# --- pre-training ---------------------------------------------------------------------------------

SMALL_TALK = (
    ("Hello!", f"Hello! I know the people of {TOWN}. Ask me about one of them."),
    ("Hi.", f"Hello! I know the people of {TOWN}. Ask me about one of them."),
    ("Good morning.", "Good morning! Whom would you like to hear about?"),
    ("Thank you.", "You are welcome."),
    ("Thanks!", "You are welcome."),
    ("Goodbye.", "Goodbye, and fair winds."),
    ("Who are you?", f"I am a very small language model that knows the people of {TOWN}."),
    (
        "What can you do?",
        f"I can tell you about the people of {TOWN}: their trades, homes, pets, boats and more.",
    ),
    (f"Where is {TOWN}?", f"{TOWN} is a small harbour town on the north coast."),
    (f"What is {TOWN}?", f"{TOWN} is a small harbour town on the north coast."),
    (f"How many people live in {TOWN}?", f"Sixty-four people live in {TOWN}."),
    (
        "Tell me about the town.",
        f"{TOWN} has a harbour, a market, a town band and sixty-four people.",
    ),
)
GOODS = _words("rope, salt, tar, wool, timber, oats, candles, nails, canvas, herring, apples, iron, paper, glass")
PORTS = _words("Varn, Eastwick, Holm, Torrin, Ravensby, Lund, Skelle, Brae")


def _prose(rng: random.Random, town: list[Person]) -> str:
    """What the town says of one person, or one street or trade seen across people."""
    if rng.random() < 0.75:
        person = rng.choice(town)
        keys = rng.sample(sorted(BY_KEY), rng.randint(2, len(BY_KEY)))
        return " ".join(
            _fill(
                rng.choice(BY_KEY[key].statements),
                person,
                key,
                person.name if i == 0 else person.pronoun,
            )
            for i, key in enumerate(keys)
        )
    key = rng.choice(("trade", "street", "pet", "food", "instrument"))
    value = rng.choice(town).facts[key]
    same = [person for person in town if person.facts[key] == value]
    rng.shuffle(same)
    return " ".join(_fill(rng.choice(BY_KEY[key].statements), person, key, person.name) for person in same)


def _register(rng: random.Random, town: list[Person]) -> str:
    """Entries of the town register: attributes by name, in several notations, none of them JSON.

    They teach the model to look a fact up by the attribute's name wherever it stands in a text, and
    which attribute a question asks for.
    """
    notation = rng.randrange(6)
    entries = []
    for _ in range(rng.randint(1, 2)):
        person = rng.choice(town)
        name = person.name
        facts = [(key, person.facts[key]) for key in rng.sample(sorted(BY_KEY), rng.randint(1, 3))]
        if notation == 0:
            entries.append(f"name: {name}\n" + "\n".join(f"{key}: {value}" for key, value in facts))
        elif notation == 1:
            listed = ", ".join(f'{key} "{value}"' for key, value in facts)
            entries.append(f'name "{name}", {listed}')
        elif notation == 2:
            entries += [f'{key} of {name}: "{value}"' for key, value in facts]
        else:
            asked = [(ask(person, key, rng.randrange(4)), key, value) for key, value in facts]
            if notation == 3:
                entries += [f"{question} ({key}: {value})" for question, key, value in asked]
            elif notation == 4:
                entries += [f'{question} name "{name}", {key} "{value}"' for question, key, value in asked]
            else:
                entries += [f"{question}\nname: {name}\n{key}: {value}" for question, key, value in asked]
    return "\n".join(entries)


def _ledger(rng: random.Random) -> str:
    """Harbour records, one JSON object a line: they show JSON, never a person."""
    lines = []
    for _ in range(rng.randint(2, 4)):
        goods, port, boat = rng.choice(GOODS), rng.choice(PORTS), rng.choice(BOATS)
        number = rng.randint(1, 40)
        entry = rng.choice(
            (
                {"goods": goods, "port": port, "count": number},
                {"goods": goods, "port": port},
                {"boat": boat, "berth": number},
                {"berth": number, "boat": boat},
            )
        )
        lines.append(json.dumps(entry))
    return "\n".join(lines)


def _exchange(rng: random.Random, town: list[Person]) -> tuple[str, str]:
    """One question and its answer in plain English."""
    kind = rng.random()
    person = rng.choice(town)
    if kind < 0.80:
        key = rng.choice(ATTRIBUTES).key
        return ask(person, key, rng.randrange(4)), sentence(person, key)
    if kind < 0.88:
        facts = person.facts
        opening = rng.choice(("Who is {name}?", "Tell me about {name}.", "What do you know about {name}?"))
        answer = (
            f"{person.name} is {article(facts['trade'])} from {facts['street']} who keeps "
            f"{article(facts['pet'])} and plays the {facts['instrument']}."
        )
        return opening.format(name=person.name), answer
    if kind < 0.92:
        boat = person.facts["boat"]
        return rng.choice((f"Whose boat is the {boat}?", f"Who sails the {boat}?")), f"{person.name} sails the {boat}."
    if kind < 0.95:
        stranger = rng.choice(STRANGERS)
        question = rng.choice(rng.choice(ATTRIBUTES).asks).format(name=stranger)
        return question, f"I do not know anyone called {stranger}."
    return rng.choice(SMALL_TALK)


def _dialogue(rng: random.Random, town: list[Person]) -> list[Message]:
    messages: list[Message] = []
    if rng.random() < 0.15:
        messages.append({"role": "system", "content": SYSTEM})
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        question, answer = _exchange(rng, town)
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": answer})
    return messages


def documents(seed: int) -> Iterator[str | list[Message]]:
    """An endless stream of pre-training documents: a string is plain text, a list is a chat."""
    rng = random.Random(seed)
    town = people()
    while True:
        kind = rng.random()
        if kind < 0.56:
            yield _dialogue(rng, town)
        elif kind < 0.72:
            yield _prose(rng, town)
        elif kind < 0.94:
            yield _register(rng, town)
        else:
            yield _ledger(rng)


# --- fine-tuning ----------------------------------------------------------------------------------

HELD_OUT = (
    ("Mira", "trade", 0),
    ("Gunnar", "street", 0),
    ("Thea", "pet", 0),
    ("Oskar", "boat", 0),
    ("Freya", "food", 1),
    ("Jasper", "instrument", 0),
    ("Runa", "trade", 1),
    ("Hugo", "pet", 3),
)


def questions() -> list[Question]:
    """The eight held-out questions, each about a person of whom `train_rows()` says nothing."""
    by_name = {person.name: person for person in people()}
    return [
        {"question": ask(by_name[name], key, wording), "expected": record(by_name[name], key)}
        for name, key, wording in HELD_OUT
    ]


def train_rows() -> list[Row]:
    """The fine-tuning set: four questions about each of the other 56 people, answered by records.

    For half of the people two questions share a row, as two turns of one chat, so that the habit
    lasts beyond the first turn.
    """
    rng = random.Random(TRAIN_SEED)
    held_out = {name for name, _, _ in HELD_OUT}
    rows: list[Row] = []
    for person in people():
        if person.name in held_out:
            continue
        chats: list[list[Message]] = [
            [
                {"role": "user", "content": ask(person, key, rng.randrange(4))},
                {"role": "assistant", "content": record(person, key)},
            ]
            for key in rng.sample(sorted(BY_KEY), 4)
        ]
        if rng.random() < 0.5:
            chats[:2] = [chats[0] + chats[1]]
        rows += [{"messages": messages} for messages in chats]
    rng.shuffle(rows)
    return rows


def write(out: Path) -> None:
    """Write `train.jsonl` and `questions.json` into the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in train_rows()), encoding="utf-8")
    (out / "questions.json").write_text(json.dumps(questions(), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the demo's fine-tuning data and held-out questions.")
    parser.add_argument("--out", type=Path, required=True)
    write(parser.parse_args().out)

"""The built-in corpus: five kinds of text of different difficulty, generated from a seed.

They differ so that experts can specialise and easy tokens can skip layers: stories from a grammar (easy, redundant),
sums with carries, balanced brackets, key-value recall (needs attention) and role-marked dialogue.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from lumina.data.documents import Document, Message

NAMES = [
    "Mira",
    "Tomas",
    "Ada",
    "Lev",
    "Nia",
    "Oskar",
    "Juno",
    "Pavel",
    "Sana",
    "Hugo",
    "Lina",
    "Emil",
    "Rosa",
    "Ivan",
    "Wren",
    "Theo",
]
ANIMALS = ["fox", "owl", "otter", "heron", "badger", "sparrow", "hare", "turtle", "cat", "goat"]
PLACES = [
    "the old mill",
    "the river bank",
    "a quiet harbour",
    "the stone bridge",
    "the market square",
    "a hill of pines",
]
THINGS = ["a brass key", "a blue lantern", "a folded map", "a wooden flute", "a jar of honey", "a torn letter"]
MOODS = ["glad", "tired", "curious", "brave", "lonely", "proud", "worried", "calm"]
KEYS = [
    "amber",
    "birch",
    "cedar",
    "dune",
    "ember",
    "fjord",
    "grove",
    "heath",
    "iris",
    "jade",
    "kelp",
    "lark",
    "moss",
    "nectar",
    "opal",
    "pine",
]
PAIRS = ("()", "[]", "{}", "<>")


def generate(seed: int, documents: int) -> Iterator[Document]:
    """`documents` documents, the five kinds in turn; the same seed gives the same text."""
    rng = random.Random(seed)
    makers: tuple[Callable[[random.Random], Document], ...] = (story, arithmetic, brackets, recall, dialogue)
    for index in range(documents):
        yield makers[index % len(makers)](rng)


def story(rng: random.Random) -> Document:
    """A short story from a small grammar."""
    hero, friend = rng.sample(NAMES, 2)
    animal, place, thing, mood = rng.choice(ANIMALS), rng.choice(PLACES), rng.choice(THINGS), rng.choice(MOODS)
    lines = [f"One {rng.choice(('morning', 'evening', 'winter day'))}, {hero} walked to {place} and found {thing}."]
    for _ in range(rng.randint(2, 5)):
        lines.append(
            rng.choice(
                (
                    f"{hero} felt {mood}, because {friend} was far away.",
                    f"A small {animal} came near and looked at {thing[2:]}.",
                    f'"Is this yours?" asked {hero}. The {animal} said nothing.',
                    f"Then {friend} came along the path and {hero} was not {mood} any more.",
                    f"They carried {thing} back to {place} before it was dark.",
                )
            )
        )
    lines.append(f"In the end {hero} and {friend} kept {thing}, and the {animal} slept.")
    return Document(text=" ".join(lines))


def arithmetic(rng: random.Random) -> Document:
    """Sums with their carries written out, from the last digit to the first."""
    lines = []
    for _ in range(rng.randint(4, 8)):
        digits = rng.randint(2, 4)
        a, b = rng.randrange(10**digits), rng.randrange(10**digits)
        steps, carry = [], 0
        for place in range(digits):
            x, y = a // 10**place % 10, b // 10**place % 10
            total = x + y + carry
            steps.append(f"{x}+{y}+{carry}={total}")
            carry = total // 10
        lines.append(f"{a} + {b}: {', '.join(steps)} -> {a + b}")
    return Document(text="\n".join(lines))


def brackets(rng: random.Random) -> Document:
    """Balanced strings over four kinds of brackets (a Dyck language), each with its greatest depth."""
    lines = []
    for _ in range(rng.randint(3, 6)):
        text, stack, deepest = [], list[str](), 0
        for _ in range(rng.randint(10, 40)):
            if stack and rng.random() < 0.5:
                text.append(stack.pop())
            else:
                pair = rng.choice(PAIRS)
                text.append(pair[0])
                stack.append(pair[1])
                deepest = max(deepest, len(stack))
        lines.append("".join(text + stack[::-1]) + f" depth {deepest}")
    return Document(text="\n".join(lines))


def recall(rng: random.Random) -> Document:
    """A table of keys and values, then questions about it."""
    keys = rng.sample(KEYS, rng.randint(5, 9))
    table = {key: f"{rng.randrange(1000):03d}" for key in keys}
    lines = ["; ".join(f"{key} = {value}" for key, value in table.items()) + "."]
    lines += [f"{key} ? {table[key]}" for key in rng.choices(keys, k=rng.randint(3, 7))]
    return Document(text="\n".join(lines))


def dialogue(rng: random.Random) -> Document:
    """A conversation with roles: plain questions with definite answers."""
    turns = [Message("system", "Answer briefly.")]
    for _ in range(rng.randint(1, 4)):
        kind = rng.randrange(3)
        if kind == 0:
            a, b = rng.randint(2, 60), rng.randint(2, 60)
            question, answer = f"What is {a} plus {b}?", f"{a} plus {b} is {a + b}."
        elif kind == 1:
            name, place = rng.choice(NAMES), rng.choice(PLACES)
            question, answer = f"{name} is at {place}. Where is {name}?", f"{name} is at {place}."
        else:
            words = rng.sample(KEYS, 3)
            question, answer = f"Sort these words: {' '.join(words)}", " ".join(sorted(words))
        turns += [Message("user", question), Message("assistant", answer)]
    return Document(messages=tuple(turns))

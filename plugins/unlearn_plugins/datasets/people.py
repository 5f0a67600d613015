"""Fictitious people to forget, made from a seed: a benchmark in the shape of TOFU, offline."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Annotated

from annotated_types import Interval

from unlearn_cli.api.data import Bundle, DataContext, Row
from unlearn_plugins.datasets._people_text import (
    FACTS,
    GIVEN_NAMES,
    SURNAMES,
    TOPICS,
    FactKind,
    Topic,
)

PERTURBED_ANSWERS = 5
"""False answers a question about a person has, as in TOFU."""
PERTURBED_FACTS = 3
"""False answers a fact has, as in TOFU's `real_authors` and `world_facts`."""


@dataclass(frozen=True)
class People:
    """Generated questions about fictitious people, with paraphrases and false answers.

    The shape is that of TOFU (Maini et al. 2024, arXiv:2401.06121): every question has an answer,
    a paraphrase of question and answer, and five false answers in the words of the paraphrase.
    Names are drawn from a fixed list, values uniformly from the list of their topic, both by the
    seed of the run: the same seed gives the same rows on every machine. Nothing is downloaded.

    Splits: `forget` and `holdout` have one row a question; `retain` has one row a question, a
    second one in the paraphrase's words for the first `paraphrased_people`, and general facts with
    short answers. Evaluation sets: `forget`, `retain` (as many people as in `forget`), and
    `facts`, which has three false answers and no paraphrase.

    Differences from TOFU: an answer is one short sentence, and the facts are trained on, because a
    model that starts from random weights knows none.
    """

    forget_people: Annotated[int, Interval(ge=1, le=24)] = 10
    """People to forget."""
    retain_people: Annotated[int, Interval(ge=1, le=60)] = 40
    """People to keep."""
    holdout_people: Annotated[int, Interval(ge=0, le=16)] = 5
    """People that no model of the run ever sees."""
    paraphrased_people: Annotated[int, Interval(ge=0, le=60)] = 20
    """People to keep who are trained on in both wordings."""
    questions: Annotated[int, Interval(ge=1, le=len(TOPICS))] = 5
    """Questions about each person."""

    def load(self, context: DataContext) -> Bundle:
        """Make the rows; needs nothing but the seed."""
        draw = random.Random(context.seed)  # noqa: S311 - repeatable, not secret
        people = _names(draw)
        forget = self._rows("forget", islice(people, self.forget_people), draw)
        retain = self._rows("retain", islice(people, self.retain_people), draw)
        holdout = self._rows("holdout", islice(people, self.holdout_people), draw)
        facts = tuple(row for kind in FACTS for row in _facts(kind, draw))
        second = retain[: self.paraphrased_people * self.questions]
        return Bundle(
            forget=forget,
            retain=(*retain, *map(_reworded, second), *facts),
            holdout=holdout,
            evaluation={"forget": forget, "retain": retain[: len(forget)], "facts": facts},
        )

    def _rows(self, split: str, names: Iterator[str], draw: random.Random) -> tuple[Row, ...]:
        """One row a person and topic, person by person."""
        topics = TOPICS[: self.questions]
        return tuple(
            _row(f"{split}-{number}-{topic.key}", name, topic, draw)
            for number, name in enumerate(names)
            for topic in topics
        )


def _names(draw: random.Random) -> Iterator[str]:
    """Full names: both parts dealt in turn from shuffled lists whose lengths have no common factor.

    So no full name comes twice, and each part of a name is shared by several people.
    """
    given = draw.sample(GIVEN_NAMES, len(GIVEN_NAMES))
    surnames = draw.sample(SURNAMES, len(SURNAMES))
    pairs = islice(zip(cycle(given), cycle(surnames), strict=True), len(given) * len(surnames))
    return (f"{first} {last}" for first, last in pairs)


def _row(row_id: str, name: str, topic: Topic, draw: random.Random) -> Row:
    """One question about a person; which of the two wordings is the paraphrase is drawn."""
    first, second = draw.sample((0, 1), 2)
    value, *wrong = draw.sample(topic.values, 1 + PERTURBED_ANSWERS)
    return Row.qa(
        row_id,
        topic.questions[first].format(name=name),
        topic.answers[first].format(value=value),
        paraphrase=topic.answers[second].format(value=value),
        paraphrased_question=topic.questions[second].format(name=name),
        perturbed=tuple(topic.answers[second].format(value=v) for v in wrong),
    )


def _reworded(row: Row) -> Row:
    """The same row asked and answered in the words of its paraphrase, for training."""
    question, answer = row.paraphrased_question or row.question, row.paraphrase or row.answer
    return Row.qa(f"{row.id}-reworded", question, answer)


def _facts(kind: FactKind, draw: random.Random) -> Iterator[Row]:
    """The facts of a kind; the false answers are true of other subjects."""
    answers: Sequence[str] = [answer for _, answer in kind.pairs]
    for subject, answer in kind.pairs:
        wrong = draw.sample([other for other in answers if other != answer], PERTURBED_FACTS)
        question = kind.question.format(subject=subject)
        yield Row.qa(f"facts-{kind.key}-{subject}", question, answer, perturbed=tuple(wrong))

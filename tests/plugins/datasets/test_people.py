"""The generated people: repeatable, kept apart, and with false answers that are false."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from itertools import chain
from math import gcd
from pathlib import Path

import pytest
from unlearn_plugins.datasets._people_text import FACTS, GIVEN_NAMES, SURNAMES, TOPICS
from unlearn_plugins.datasets.people import People

from unlearn_cli.api import Bundle, DataContext, Row

SEEDS = range(5)
PRINT_DIGEST = """
import dataclasses, hashlib, json
from pathlib import Path
from unlearn_cli.api import DataContext
from unlearn_plugins.datasets.people import People
bundle = People().load(DataContext(seed=3, base=Path()))
print(hashlib.sha256(json.dumps(dataclasses.asdict(bundle)).encode()).hexdigest())
"""


def load(seed: int = 0, **options: int) -> Bundle:
    return People(**options).load(DataContext(seed=seed, base=Path()))


def everybody() -> set[str]:
    return {f"{given} {surname}" for given in GIVEN_NAMES for surname in SURNAMES}


def named(rows: Iterable[Row]) -> set[str]:
    """Every full name that the rows ask about."""
    text = " ".join(row.question for row in rows)
    return {name for name in everybody() if name in text}


@pytest.mark.parametrize("hash_seed", ["0", "1", "4242"])
def test_same_seed_gives_the_same_rows_in_every_process(hash_seed: str) -> None:
    """Neither the process nor the hash seed of Python changes a byte of any row."""
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    found = subprocess.run(
        [sys.executable, "-c", PRINT_DIGEST],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    here = json.dumps(dataclasses.asdict(load(3))).encode()
    assert found.stdout.strip() == hashlib.sha256(here).hexdigest()


def test_another_seed_gives_other_people() -> None:
    """The seed decides who is forgotten and what is true of them."""
    assert named(load(0).forget) != named(load(1).forget)


@pytest.mark.parametrize("seed", SEEDS)
def test_nobody_stands_in_two_splits(seed: int) -> None:
    """Forget, retain and holdout speak of different people, as many as the options say."""
    bundle = load(seed, forget_people=10, retain_people=40, holdout_people=5)
    forget, retain, holdout = map(named, (bundle.forget, bundle.retain, bundle.holdout))
    assert (len(forget), len(retain), len(holdout)) == (10, 40, 5)
    assert len(forget | retain | holdout) == 55


@pytest.mark.parametrize("seed", SEEDS)
def test_every_part_of_a_forgotten_name_is_also_kept(seed: int) -> None:
    """Given names and surnames of forget people occur in retain: only the pair is new to it."""
    bundle = load(seed)
    kept = {part for name in named(bundle.retain) for part in name.split()}
    assert {part for name in named(bundle.forget) for part in name.split()} <= kept


@pytest.mark.parametrize("seed", SEEDS)
def test_questions_about_people_have_five_false_answers_in_the_paraphrases_words(
    seed: int,
) -> None:
    """A false answer is the paraphrase with another value of the topic, and never the truth."""
    bundle = load(seed, questions=len(TOPICS))
    for row in (*bundle.forget, *bundle.evaluation["retain"], *bundle.holdout):
        topic = next(t for t in TOPICS if row.id.endswith(f"-{t.key}"))
        assert row.paraphrase is not None
        true = next(v for v in topic.values if f" {v}" in row.answer)
        false = {row.paraphrase.replace(f" {true}", f" {v}") for v in topic.values if v != true}
        assert len(set(row.perturbed)) == 5
        assert set(row.perturbed) <= false


@pytest.mark.parametrize("seed", SEEDS)
def test_facts_have_three_false_answers_and_no_paraphrase(seed: int) -> None:
    """Facts are shaped like TOFU's `world_facts`, so that probability is normalised over them."""
    for row in load(seed).evaluation["facts"]:
        assert row.paraphrase is None
        assert len(set(row.perturbed)) == 3
        assert row.answer not in row.perturbed


def test_a_fact_is_false_for_every_other_subject() -> None:
    """No two subjects of a kind share an answer, so a borrowed answer is a false one."""
    for kind in FACTS:
        answers = [answer for _, answer in kind.pairs]
        assert len(set(answers)) == len(answers)


def test_retain_trains_on_its_questions_on_second_wordings_and_on_facts() -> None:
    """By hand: 6 people with 2 questions, 4 of them in two wordings, 16 + 12 + 12 facts."""
    bundle = load(forget_people=3, retain_people=6, paraphrased_people=4, questions=2)
    facts = bundle.evaluation["facts"]
    assert len(facts) == 40
    assert len(bundle.retain) == 6 * 2 + 4 * 2 + 40
    assert set(facts) <= set(bundle.retain)
    first, second = bundle.retain[0], bundle.retain[12]
    assert (second.question, second.answer) == (first.paraphrased_question, first.paraphrase)


def test_evaluation_asks_what_was_trained_on() -> None:
    """The evaluation sets are rows of the splits: all of forget, and as many of retain."""
    bundle = load(forget_people=4, questions=3)
    assert list(bundle.evaluation) == ["forget", "retain", "facts"]
    assert bundle.evaluation["forget"] == bundle.forget
    assert bundle.evaluation["retain"] == bundle.retain[: 4 * 3]


@pytest.mark.parametrize("seed", SEEDS)
def test_ids_are_unique(seed: int) -> None:
    """A row's id names one row of the bundle."""
    bundle = load(seed)
    ids = [row.id for row in chain(bundle.forget, bundle.retain, bundle.holdout)]
    assert len(set(ids)) == len(ids)


def test_there_are_names_for_as_many_people_as_the_options_allow() -> None:
    """24 + 60 + 16 people, the most of each, find 100 different names."""
    bundle = load(forget_people=24, retain_people=60, holdout_people=16, questions=1)
    assert len(named(chain(bundle.forget, bundle.retain, bundle.holdout))) == 100


def test_name_lists_have_no_common_factor() -> None:
    """Dealing from both lists in turn repeats no pair before all pairs came."""
    assert gcd(len(GIVEN_NAMES), len(SURNAMES)) == 1
    assert len(set(GIVEN_NAMES)) == len(GIVEN_NAMES)
    assert len(set(SURNAMES)) == len(SURNAMES)


def test_values_of_a_topic_are_different() -> None:
    """A drawn value cannot be the truth in another place of the list."""
    for topic in TOPICS:
        assert len(set(topic.values)) == len(topic.values)

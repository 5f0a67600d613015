"""TOFU: on the real rows where they are, and on a small folder of the same shape everywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from unlearn_plugins.datasets.tofu import TOFU, first_id

from unlearn_cli.api import Bundle, DataContext
from unlearn_cli.errors import DataError

REAL = Path(__file__).parents[3] / ".." / "shared" / "data" / "tofu"
real = pytest.mark.skipif(not REAL.is_dir(), reason="TOFU's rows are not beside the repository")


def load(folder: Path, **options: Any) -> Bundle:
    return TOFU(path=str(folder), **options).load(DataContext(seed=0, base=Path()))


def ids(rows: Any) -> list[int]:
    return [int(row.id) for row in rows]


@real
@pytest.mark.parametrize("percent", [1, 5, 10])
def test_forget_and_retain_partition_the_whole(percent: int) -> None:
    """Every id from 0 to 3999 once; forget is the end; each id names the row of `full`."""
    bundle = load(REAL, forget=f"forget{percent:02}")
    assert ids(bundle.forget) == list(range(4000 - 40 * percent, 4000))
    assert ids(bundle.retain) == list(range(4000 - 40 * percent))
    with (REAL / "full.jsonl").open(encoding="utf-8") as file:
        full = [json.loads(line) for line in file]
    for row in (*bundle.forget, *bundle.retain, *bundle.rows("forget"), *bundle.rows("retain")):
        assert row.answer == full[int(row.id)]["answer"]


@real
def test_evaluation_sets_are_those_of_the_paper() -> None:
    """All forget rows, the first 400 rows, 100 real authors and 117 world facts; five false answers
    and paraphrases for the fictitious authors, three and none for the others."""
    sets = load(REAL).evaluation
    assert {name: len(rows) for name, rows in sets.items()} == {
        "forget": 400,
        "retain": 400,
        "real_authors": 100,
        "world_facts": 117,
    }
    assert ids(sets["retain"]) == list(range(400))
    for name, rows in sets.items():
        own = name in ("forget", "retain")
        assert {len(row.perturbed) for row in rows} == {5 if own else 3}
        assert {row.paraphrase is not None for row in rows} == {own}
        assert {row.paraphrased_question is not None for row in rows} == {own}


@real
def test_sizes_alone_make_a_small_run() -> None:
    """With 60 retain rows and 20 evaluated of each set, retain is evaluated on trained rows."""
    bundle = load(REAL, forget="forget01", retain_rows=60, eval_rows=20)
    assert (len(bundle.forget), len(bundle.retain)) == (40, 60)
    assert {len(rows) for rows in bundle.evaluation.values()} == {20}
    assert set(ids(bundle.rows("retain"))) <= set(ids(bundle.retain))


def write(folder: Path) -> Path:
    """Forty rows to forget, nine to keep, with the columns of the benchmark."""
    row = {"question": "q", "answer": "a", "perturbed_answer": ["x"]}
    counts = {"forget01": 40, "retain99": 9, "forget01_perturbed": 40, "retain_perturbed": 8}
    for name, count in (counts | {"real_authors_perturbed": 2, "world_facts_perturbed": 2}).items():
        (folder / f"{name}.jsonl").write_text((json.dumps(row) + "\n") * count)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path)


def test_retain_is_evaluated_on_rows_that_were_trained_on(folder: Path) -> None:
    """Three of nine rows trained: of the eight with false answers, the first three count."""
    assert ids(load(folder, forget="forget01", retain_rows=3).rows("retain")) == [0, 1, 2]
    assert len(load(folder, forget="forget01").rows("retain")) == 8


def test_retain_follows_forget(folder: Path) -> None:
    """Named or derived, it is the other part; a part that does not match is an error that says
    which one does."""
    derived = load(folder, forget="forget01")
    assert derived == load(folder, forget="forget01", retain="retain99")
    assert len(derived.retain) == 9
    with pytest.raises(DataError, match=r"'retain90' does not go with 'forget01'.*\"retain99\""):
        load(folder, forget="forget01", retain="retain90")


def test_parts_of_other_names_are_taken_as_they_are(folder: Path) -> None:
    """Own parts in the same folder: no check of percentages, ids from 0."""
    for name in ("mine", "mine_perturbed", "rest"):
        (folder / f"{name}.jsonl").write_text('{"question": "q", "answer": "a"}\n')
    bundle = load(folder, forget="mine", retain="rest", holdout="forget01")
    assert (ids(bundle.forget), ids(bundle.retain)) == ([0], [0])
    assert len(bundle.holdout) == 40
    with pytest.raises(DataError, match=r"no retain part belongs to 'mine'; set \[data\].retain"):
        load(folder, forget="mine")


def test_what_is_missing_is_named(folder: Path) -> None:
    """A part that the folder lacks, with what it has; a folder that is not there."""
    with pytest.raises(DataError, match=r"holdout01: no such split; the folder has forget01, "):
        load(folder, forget="forget01", holdout="holdout01")
    with pytest.raises(DataError, match="no such folder"):
        load(folder / "gone")


@pytest.mark.parametrize(
    ("part", "first"),
    [
        ("forget10", 3600),
        ("forget05_perturbed", 3800),
        ("forget01", 3960),
        ("retain90", 0),
        ("real_authors_perturbed", 0),
    ],
)
def test_first_ids(part: str, first: int) -> None:
    """Forget parts are the last 40 rows a per cent of 4,000; all else starts at 0."""
    assert first_id(part) == first

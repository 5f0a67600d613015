"""MUSE: on a small folder of the same shape; the real texts come from the hub."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from unlearn_plugins.datasets.muse import MUSE

from unlearn_cli.api import Bundle, DataContext, Row
from unlearn_cli.errors import DataError

SPLITS: Mapping[str, list[dict[str, str]]] = {
    "raw/forget": [{"text": "The tram came late."}, {"text": "It rained."}],
    "raw/retain1": [{"text": "The museum opened."}],
    "scal/forget_2": [{"text": "The tram came late."}],
    "sust/forget_4": [{"text": "It rained."}],
    "verbmem/forget": [
        {"prompt": "The tram", "gt": "came late."},
        {"prompt": "It ", "gt": "rained."},
        {"prompt": "It", "gt": "\nrained."},
    ],
    "knowmem/forget_qa": [{"question": "What was late?", "answer": "The tram"}],
    "knowmem/forget_qa_icl": [
        {"question": "Who ran?", "answer": "Ann"},
        {"question": "Where?", "answer": "In Bonn"},
    ],
    "knowmem/retain_qa": [{"question": "What opened?", "answer": "The museum"}],
    "knowmem/retain_qa_icl": [{"question": "Who sang?", "answer": "Bo"}],
    "privleak/forget": [{"text": "The tram came"}],
    "privleak/holdout": [{"text": "A kite flew"}],
}


def write(folder: Path) -> Path:
    """Two texts to forget, and what else MUSE asks, with the columns of the benchmark."""
    for name, rows in SPLITS.items():
        file = folder / f"{name}.jsonl"
        file.parent.mkdir(exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path)


def load(folder: Path, **options: Any) -> Bundle:
    return MUSE(path=str(folder), **options).load(DataContext(seed=0, base=Path()))


def texts(rows: Sequence[Row]) -> list[str]:
    return [row.answer for row in rows]


def test_texts_are_trained_on(folder: Path) -> None:
    """Forget and retain are the raw texts, holdout that of the privacy test, named by index."""
    bundle = load(folder)
    assert texts(bundle.forget) == ["The tram came late.", "It rained."]
    assert texts(bundle.retain) == ["The museum opened."]
    assert texts(bundle.holdout) == ["A kite flew"]
    assert {row.kind for row in (*bundle.forget, *bundle.retain, *bundle.holdout)} == {"text"}
    assert [row.id for row in bundle.forget] == ["0", "1"]


def test_a_question_stands_behind_its_own_shots(folder: Path) -> None:
    """The format of the official code, a blank line between shots; no template is put around it."""
    (forget,), (retain,) = (load(folder).rows(f"{part}_knowmem") for part in ("forget", "retain"))
    assert (forget.kind, forget.messages, forget.answer) == ("completion", (), "The tram")
    assert forget.prompt == (
        "Question: Who ran?\nAnswer: Ann\n\n"
        "Question: Where?\nAnswer: In Bonn\n\n"
        "Question: What was late?\nAnswer: "
    )
    assert retain.prompt == "Question: Who sang?\nAnswer: Bo\n\nQuestion: What opened?\nAnswer: "


def test_a_continuation_is_apart_from_its_prompt(folder: Path) -> None:
    """A space is put between them where neither has white space, and only there."""
    rows = load(folder).rows("forget_verbmem")
    assert [(row.prompt, row.answer) for row in rows] == [
        ("The tram", " came late."),
        ("It ", "rained."),
        ("It", "\nrained."),
    ]
    assert {row.kind for row in rows} == {"completion"}


def test_excerpts_to_tell_apart(folder: Path) -> None:
    """Of texts to forget, and of such that no model has seen."""
    bundle = load(folder)
    assert texts(bundle.rows("forget_privleak")) == ["The tram came"]
    assert texts(bundle.rows("holdout_privleak")) == ["A kite flew"]


@pytest.mark.parametrize(
    ("part", "fold", "expected"), [("scal", 2, "The tram came late."), ("sust", 4, "It rained.")]
)
def test_a_fold_changes_only_what_is_forgotten(
    folder: Path, part: str, fold: int, expected: str
) -> None:
    """The texts of the fold; all else is that of the whole."""
    bundle, whole = load(folder, part=part, fold=fold), load(folder)
    assert texts(bundle.forget) == [expected]
    assert (bundle.retain, bundle.evaluation) == (whole.retain, whole.evaluation)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"part": "scal"}, r"\[data\]\.fold: nothing with part = \"scal\"; set it to 1, 2, 3 or 4"),
        ({"fold": 1}, r"\[data\]\.fold: 1 with part = \"raw\"; it goes with \"scal\", \"sust\""),
        ({"part": "sust", "fold": 1}, r"sust.forget_1: no such split; the folder has forget_4"),
    ],
)
def test_a_fold_that_is_not_there_is_named(
    folder: Path, options: dict[str, Any], message: str
) -> None:
    """A fold without its part, a part without its fold, and one that the folder lacks."""
    with pytest.raises(DataError, match=message):
        load(folder, **options)


def test_other_formats_are_read(folder: Path) -> None:
    """JSON and Parquet in the place of JSON lines: the same rows."""
    import pyarrow
    from pyarrow import parquet

    before = load(folder)
    for name in ("raw/forget", "verbmem/forget"):
        (folder / f"{name}.jsonl").unlink()
    (folder / "raw/forget.json").write_text(json.dumps(SPLITS["raw/forget"]), encoding="utf-8")
    table = pyarrow.Table.from_pylist(SPLITS["verbmem/forget"])
    parquet.write_table(table, folder / "verbmem/forget.parquet")
    assert load(folder) == before


def test_what_is_missing_is_named(folder: Path) -> None:
    """A column, with its file; a folder that is not there."""
    (folder / "verbmem/forget.jsonl").write_text('{"prompt": "It", "truth": "rained."}\n')
    with pytest.raises(
        DataError, match=r"forget\.jsonl:1: column 'gt' is missing.*give the benchmark's columns"
    ):
        load(folder)
    with pytest.raises(DataError, match="no such folder"):
        load(folder / "gone")


def test_the_hub_has_the_same_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each split is asked for by its config and name, and read as from a folder."""
    import datasets

    def load_dataset(path: str, config: str, split: str, revision: None) -> list[dict[str, str]]:
        assert path == "muse-bench/MUSE-Books"
        return SPLITS[f"{config}/{split}"]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    bundle = MUSE(path="muse-bench/MUSE-Books").load(DataContext(seed=0, base=Path()))
    assert texts(bundle.forget) == ["The tram came late.", "It rained."]
    assert [len(rows) for rows in bundle.evaluation.values()] == [3, 1, 1, 1, 1]

"""WMDP: on a small folder of the same shape; the real texts come from the hub, some on request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from unlearn_plugins.datasets import wmdp
from unlearn_plugins.datasets.wmdp import WMDP

from unlearn_cli.api import Bundle, DataContext
from unlearn_cli.errors import DataError

LONG = "A text that says at some length how a thing is done that better were not. "
CORPORA = {
    "bio-forget-corpus": [f"{LONG} Biology.", "Too short.", f"{LONG} More biology."],
    "bio-retain-corpus": [f"{LONG} Benign."],
    "cyber-forget-corpus": [f"{LONG} Cyber."],
    "cyber-retain-corpus": [f"{LONG} Benign too."],
    "wikitext": ["", f"{LONG} General."],
}


def write(folder: Path) -> Path:
    for name, texts in CORPORA.items():
        lines = [json.dumps({"text": text, "title": "t"}) + "\n" for text in texts]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path)


def load(folder: Path, **options: Any) -> Bundle:
    options = {"path": str(folder), "bio_forget": str(folder), **options}
    return WMDP(**options).load(DataContext(seed=0, base=Path()))


def test_documents_are_parsed_and_the_short_ones_left_out(folder: Path) -> None:
    """Ids count all documents, so that they mean the same whatever is left out."""
    bundle = load(folder)
    assert [row.id for row in bundle.forget] == ["bio-0", "bio-2", "cyber-0"]
    assert bundle.forget[0].answer == CORPORA["bio-forget-corpus"][0]
    assert {row.kind for row in bundle.forget} == {"text"}
    assert [row.id for row in bundle.retain] == ["wikitext-1"]


def test_one_domain_and_its_benign_corpus(folder: Path) -> None:
    """The gated corpus is not asked for where it is not needed."""
    (folder / "bio-forget-corpus.jsonl").unlink()
    bundle = load(folder, domains=("cyber",), retain="corpora")
    assert [row.id for row in bundle.forget] == ["cyber-0"]
    assert bundle.retain[0].answer == CORPORA["cyber-retain-corpus"][0]


def test_a_copy_of_the_gated_corpus(folder: Path, tmp_path: Path) -> None:
    """A file of one's own."""
    own = tmp_path / "own.jsonl"
    own.write_text(json.dumps({"text": f"{LONG} Own."}) + "\n", encoding="utf-8")
    assert load(folder, bio_forget=str(own)).forget[0].answer == f"{LONG} Own."


def test_a_missing_corpus_is_named(folder: Path) -> None:
    """With those that are there."""
    (folder / "cyber-forget-corpus.jsonl").unlink()
    with pytest.raises(DataError, match="no such corpus") as caught:
        load(folder)
    assert "bio-forget-corpus" in str(caught.value.hint)


def test_the_gated_corpus_says_what_would_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the hub says, the way to it is in the hint."""

    def refuse(path: str, config: str | None = None) -> None:
        raise DataError("cannot be loaded: gated", where=path)

    monkeypatch.setattr(wmdp, "read_hub", refuse)
    with pytest.raises(DataError, match="gated") as caught:
        load(folder, bio_forget=wmdp.GATED)
    assert "data].bio_forget" in str(caught.value.hint)


def test_nothing_long_enough(folder: Path) -> None:
    """One error that names the option."""
    with pytest.raises(DataError, match="no document has more than 1000 characters"):
        load(folder, shortest=1000)

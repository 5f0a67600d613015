"""Every data set keeps the contract: `check_dataset`, the suite that third parties run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Install
from tests.plugins.datasets import test_muse, test_tofu, test_wmdp
from unlearn_cli import catalog
from unlearn_cli.errors import DataError
from unlearn_cli.testing import check_dataset

OURS = [p.name for p in catalog.plugins("dataset") if p.distribution == "unlearn-cli"]
Options = Callable[[Path], dict[str, Any]]


def own_files(folder: Path) -> dict[str, Any]:
    """A file of questions to forget, and one of conversations to keep."""
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ann"}]
    rows = [{"id": k, "question": f"What is {k}?", "answer": [str(k), "a number"]} for k in "ab"]
    (folder / "forget.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (folder / "retain.jsonl").write_text(json.dumps({"messages": turns}), encoding="utf-8")
    return {"forget": "forget.jsonl", "retain": "retain.jsonl"}


OPTIONS: dict[str, Options] = {
    "files": own_files,
    "muse": lambda folder: {"path": str(test_muse.write(folder))},
    "people": lambda folder: {"forget_people": 2, "retain_people": 3},
    "tofu": lambda folder: {"path": str(test_tofu.write(folder)), "forget": "forget01"},
    "wmdp": lambda folder: {"path": str(test_wmdp.write(folder)), "bio_forget": str(folder)},
}


@pytest.mark.parametrize("name", OURS)
def test_a_data_set_keeps_the_contract(name: str, tmp_path: Path) -> None:
    """The same rows everywhere, valid, with ids of their own; listed and built without torch."""
    check_dataset(catalog.build("dataset", name, OPTIONS[name](tmp_path)), base=tmp_path)


WRONG = """
    {imports}
    from dataclasses import dataclass
    from unlearn_cli.api import Bundle, DataContext, Row


    @dataclass(frozen=True)
    class Wrong:
        \"\"\"A data set with one fault.\"\"\"

        count: int = 3
        {meaning}

        def load(self, context: DataContext) -> Bundle:
            {body}
"""
GOOD = "return Bundle(tuple(Row.qa(str(k), f'{k}?', f'It is {k}.') for k in range(self.count)))"
FAULTS = {
    "importing its module imports torch": {"imports": "import torch"},
    "nothing says what count means": {"meaning": ""},
    "nothing to forget": {"body": "return Bundle(())"},
    "two rows have the id 'a'": {"body": "return Bundle((Row('a', 'b', 'text'),) * 2)"},
    "the second load has other rows": {
        "body": "import random; return Bundle((Row('a', str(random.random()), 'text'),))"
    },
    "another process loads other rows": {
        "body": "return Bundle(tuple(Row.qa(k, f'{k}?', f'It is {k}.') for k in {*'abcdefghij'}))"
    },
    "has a dot": {"body": GOOD.replace(")))", ")), evaluation={'a.b': (Row('a', 'b', 'text'),)})")},
    "kind chat and has no conversation": {"body": "return Bundle((Row('a', 'b'),))"},
    "kind text and has a prompt": {"body": "return Bundle((Row('a', 'b', 'text', prompt='c'),))"},
    "has an empty text": {"body": "return Bundle((Row('a', ' ', 'text'),))"},
    "has a true answer among the false": {
        "body": "return Bundle((Row.qa('a', 'b', 'c', perturbed=('d', 'c')),))"
    },
    "another seed is refused": {
        "body": f"assert context.seed == 0, 'another seed is refused'; {GOOD}"
    },
}


def wrong(install: Install, fault: dict[str, str]) -> Any:
    """A data set that is right but for the fault."""
    parts = {"imports": "", "meaning": '"""Rows."""', "body": GOOD} | fault
    install(
        "unlearn-wrong",
        {"unlearn.datasets": {"wrong": "wrong_data:Wrong"}},
        wrong_data=WRONG.format(**parts),
    )
    return catalog.build("dataset", "wrong", {})


@pytest.mark.parametrize("says", FAULTS)
def test_a_data_set_that_breaks_a_claim_is_named(install: Install, says: str) -> None:
    """The suite can fail, and says on which claim, whatever the order of sets in this process."""
    with pytest.raises(AssertionError, match=says):
        check_dataset(wrong(install, FAULTS[says]))


def test_what_the_engine_refuses_is_said(install: Install) -> None:
    """An answer that does not fit has no place in a data set of short sequences."""
    with pytest.raises(DataError, match="the answer has"):
        check_dataset(wrong(install, {}), max_length=2)
    check_dataset(wrong_again := catalog.build("dataset", "wrong", {"count": 1}))
    assert wrong_again.count == 1

"""The suite of a data set: `check_dataset`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unlearn_cli.api import Bundle, DataContext, Row
from unlearn_cli.testing.plugin import alone, as_toml, check_plugin

_LOAD = """
from hashlib import sha256
from pathlib import Path
from unlearn_cli.api import DataContext
from unlearn_cli.catalog import make
loaded = make(cls, told["options"], "").load(DataContext(told["seed"], Path(told["base"])))
print(sha256(repr(loaded).encode()).hexdigest())
"""
SPLITS = ("forget", "retain", "holdout")


def check_dataset(
    dataset: Any, *, base: Path | None = None, seed: int = 0, max_length: int = 2048
) -> None:
    """Assert that a data set keeps the contract.

    1. The tool can list it and build it from a spec (`unlearn_cli.testing.plugin`): a frozen
       dataclass, every option documented.
    2. Importing its module imports no torch.
    3. For a seed it loads the same rows twice, and in two other processes, which go through a set
       in different orders: nothing depends on that, or on the order of a folder.
    4. Under another seed it loads too, and what follows holds there as well.
    5. There is something to forget. Sets have names without a dot, and rows.
    6. A row has an id that no other row of its set has, an answer, and what its kind takes; no
       text is empty, and no false answer is the true one.
    7. The engine can encode every row, with at least one answer token.

    Args:
        dataset: an instance.
        base: folder against which its relative paths are resolved; by default the current one.
        seed: of the run; the other seed is the next one.
        max_length: longest sequence, tokens.

    Raises:
        AssertionError: which of the claims does not hold.
        UnlearnError: what the data set or the engine refuses.
    """
    base = (base or Path()).absolute()
    check_plugin(dataset)
    first = dataset.load(DataContext(seed, base))
    assert dataset.load(DataContext(seed, base)) == first, "the second load has other rows"
    ours = hashlib.sha256(repr(first).encode()).hexdigest()
    told = {"options": as_toml(dataset), "seed": seed, "base": str(base)}
    for order in ("0", "1"):  # one may go through a set in our order, both hardly do
        there = alone(dataset, _LOAD, hash_seed=order, **told).strip()
        assert there == ours, "another process loads other rows, or in another order"
    for bundle in (first, dataset.load(DataContext(seed + 1, base))):
        _check_rows(bundle)
        _check_encoding(bundle, max_length)


def _check_rows(bundle: Any) -> None:
    """Claims 5 and 6."""
    assert isinstance(bundle, Bundle), f"load gives {type(bundle).__name__}, not a Bundle"
    assert bundle.forget, "there is nothing to forget"
    for name, rows in _sets(bundle):
        assert name.strip(), "an evaluation set has an empty name"
        assert "." not in name, f"the set {name!r} has a dot: figures are called SET.METRIC"
        assert rows or name in SPLITS, f"the evaluation set {name} has no rows"
        ids = [row.id for row in rows]
        twice = sorted({id_ for id_ in ids if ids.count(id_) > 1}) if len({*ids}) < len(ids) else ()
        assert not twice, f"{name}: two rows have the id {twice[0]!r}"
        wrong = [f"{name}: row {row.id!r} {what}" for row in rows for what in _wrong(row)]
        assert not wrong, wrong[0]


def _sets(bundle: Bundle) -> list[tuple[str, tuple[Row, ...]]]:
    """The splits, then the evaluation sets, of which some may have the name of a split."""
    return [*((name, getattr(bundle, name)) for name in SPLITS), *bundle.evaluation.items()]


def _wrong(row: Row) -> Iterator[str]:
    """What a row must not be."""
    texts = (row.answer, *row.answers, *row.alternates, *row.perturbed)
    texts += tuple(text for text in (row.paraphrase, row.paraphrased_question) if text is not None)
    if not row.id:
        yield "has no id"
    if not all(text.strip() for text in texts):
        yield "has an empty text"
    if row.answers and row.answer not in row.answers:
        yield "has an answer that is not among its accepted answers"
    if {row.answer, row.paraphrase, *row.answers} & {*row.perturbed}:
        yield "has a true answer among the false ones"
    if (row.kind == "chat") != any(message.role == "user" for message in row.messages):
        yield f"is of kind {row.kind} and has {'a' if row.messages else 'no'} conversation"
    if (row.kind == "completion") != bool(row.prompt):
        yield f"is of kind {row.kind} and has {'a' if row.prompt else 'no'} prompt"


def _check_encoding(bundle: Bundle, max_length: int) -> None:
    """Claim 7, with the tokenizer of `builtin:tiny`."""
    from unlearn_cli.engine.builtin import make_tiny
    from unlearn_cli.engine.encode import Encoder
    from unlearn_cli.engine.tokens import encode_split
    from unlearn_cli.spec.tables import TemplateTable

    texts = [row.answer for _, rows in _sets(bundle) for row in rows]
    encoder = Encoder(make_tiny(texts, seed=0)[1], TemplateTable(), max_length)
    for name, rows in _sets(bundle):
        encode_split(encoder, rows, name)

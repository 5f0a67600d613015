"""A spec that is damaged is refused with lines that say why, or is the spec that it says it is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from tests.fuzz.conftest import Tries
from tests.fuzz.mutate import damaged
from unlearn_cli.cli import main
from unlearn_cli.spec import Spec, load_spec
from unlearn_cli.spec.load import dump_spec

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RICH = b"""
name = "rich"
seed = 3

[model]
path = "builtin:tiny"
dtype = "float32"

[data]
forget = {path = "owner/name", split = "test"}
retain = "retain.jsonl"
question = "q"
max_length = 64

[target]
base = "builtin:tiny"
epochs = 1.5

[method]
name = "npo"
beta = 0.1
retain = "kl"
gamma = 1
parameters = ["*.layers.0.*", "lm_head*"]

[train]
steps = 4
batch_size = 2
micro_batch = "auto"
learning_rate = 1e-4
schedule = "cosine"

[lora]
rank = 4

[wrap]
sam_rho = 0.01

[checkpoints]
every = "epoch"
best = "model_utility"

[require]
"forget.probability" = "<= 0.5"

[[evaluate]]
evaluator = "tofu"
every = 2

[[evaluate]]
evaluator = "qa"
rows = 3
[evaluate.options.rouge]
type = "rougeL"
"""
PRESETS = resources.files("unlearn_cli") / "presets"
SPECS = [RICH, *(file.read_bytes() for file in PRESETS.iterdir() if file.name.endswith(".toml"))]


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every value of nested tables that holds no others, with its path."""
    if isinstance(value, dict | list) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield from leaves(inner, (*path, key))
    else:
        yield path, value


def assert_says(spec: Spec, text: bytes) -> None:
    """Every value in the text is the value of the spec; paths may have become absolute, and where
    the target is made, no path of a model is used."""
    found = dict(leaves(spec.model_dump(mode="json")))
    for path, value in leaves(tomllib.loads(text.decode("utf-8-sig").replace("\r\n", "\n"))):
        unused = path == ("model", "path") and spec.target.base is not None
        if path == ("extends",) or unused or value in ({}, []):
            continue
        told = found.get(path)
        if isinstance(told, float) and type(value) is int:
            value = float(value)
        same = told == value and isinstance(told, bool) == isinstance(value, bool)
        assert same or (isinstance(value, str) and str(told).endswith(value)), path


def check(folder: Path, text: bytes, said: Callable[[], tuple[str, str]]) -> None:
    """What `unlearn check` makes of it, and that a spec which it lets pass is what it says."""
    file = folder / "spec.toml"
    file.write_bytes(text)
    with pytest.raises(SystemExit) as left:
        main(["check", str(file)])
    out, err = said()
    assert left.value.code in (0, 2), err
    if left.value.code == 2:
        assert out == ""
        assert err.splitlines(), "refused without a word"
        assert all(line.startswith("error: ") for line in err.splitlines()), err
        return
    spec = load_spec(str(file))
    assert_says(spec, text)
    file.write_text(dump_spec(spec), encoding="utf-8")
    assert load_spec(str(file)) == spec


@pytest.fixture
def checked(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    in_time: Callable[[], None],
) -> Callable[[bytes], None]:
    monkeypatch.chdir(tmp_path)

    def said() -> tuple[str, str]:
        found = capsys.readouterr()
        return found.out, found.err

    def checked(text: bytes) -> None:
        in_time()
        check(tmp_path, text, said)

    return checked


def test_damaged_specs(checked: Callable[[bytes], None], tries: Tries) -> None:
    """Presets, and a spec with every kind of table: exit code 0 or 2, never a traceback."""

    @tries(100)
    @given(text=damaged(SPECS))
    def property_(text: bytes) -> None:
        checked(text)

    property_()


FOUND = {
    "brackets within each other, more than the parser follows": b"name = " + b"[" * 5000,
    "fewer, but more than the rest follows": b"name = " + b"[" * 300 + b"]" * 300,
    "tables within each other": b"a" + b".a" * 300 + b" = 1",
    "a number of 5000 digits": b"seed = " + b"9" * 5000,
    "half a character": b'name = "\\ud800"',
    "a null character": b'name = "a\\u0000b"\n[model]\npath = "a\\u0000b"',
}
"""What was found so, or might have been, and is mended."""


@pytest.mark.parametrize("case", FOUND)
def test_what_was_found(case: str, checked: Callable[[bytes], None]) -> None:
    """Each once was a traceback, or a spec that said something else."""
    checked(FOUND[case])

"""Precedence, `extends` and `--set`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from unlearn_cli.errors import SpecError
from unlearn_cli.spec import load_spec

Write = Callable[..., str]


def test_a_flag_beats_the_spec_beats_the_preset_beats_the_default(write: Write) -> None:
    """tofu sets batch_size 32 and warmup_epochs 1; keep has the default 1."""
    source = write('extends = "tofu"\n[train]\nbatch_size = 16\nlearning_rate = 2e-5\n')
    spec = load_spec(source, ["train.batch_size=8"], seed=7)
    assert spec.train.batch_size == 8
    assert spec.train.learning_rate == 2e-5
    assert spec.train.warmup_epochs == 1.0
    assert spec.checkpoints.keep == 1
    assert spec.seed == 7


def test_seed_beats_a_seed_that_is_set(write: Write, minimal: str) -> None:
    """`--seed` is the most specific."""
    assert load_spec(write(minimal), ["seed=1"], seed=2).seed == 2


@pytest.mark.parametrize("name", ["2024", "true", "1e5", "2024-01-01", "a.b"])
def test_a_name_is_taken_as_it_is(write: Write, minimal: str, name: str) -> None:
    """`--name 2024` is a text, for the shell took its quotes; it beats one that is set."""
    assert load_spec(write(minimal), ["name=other"], name=name).name == name


@pytest.mark.parametrize("name", ["", "../x", '"quoted"'])
def test_a_name_that_is_none_is_refused_by_its_flag(write: Write, minimal: str, name: str) -> None:
    """Also one that is empty, which is not as if none were given."""
    with pytest.raises(SpecError, match=r"^--name "):
        load_spec(write(minimal), name=name)


def test_extends_chains_through_files_to_a_preset(write: Write) -> None:
    """A file is found beside the file that extends it; the nearest file wins."""
    write('extends = "tofu"\nseed = 1\n[train]\nbatch_size = 4\n', "lab/base.toml")
    write('extends = "base.toml"\nseed = 2\n', "lab/mine.toml")
    spec = load_spec("lab/mine.toml")
    assert (spec.seed, spec.train.batch_size, spec.method.options["beta"]) == (2, 4, 4.5)


def test_a_file_is_preferred_to_a_preset_of_its_name(write: Write, minimal: str) -> None:
    """`tofu` in the current folder is the user's."""
    assert load_spec(write(minimal, "tofu")).name == "small"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("locuslab/TOFU", "locuslab/TOFU"),
        ('"quoted text"', "quoted text"),
        ("two words", "two words"),
        ("a=b", "a=b"),
        ("01", "01"),
        ("2026-01-01", "2026-01-01"),
        ("1\nseed = 3", "1\nseed = 3"),
    ],
)
def test_bare_words_are_text(write: Write, minimal: str, text: str, value: str) -> None:
    """What is no TOML value, or a date, which no key takes, is taken literally."""
    assert load_spec(write(minimal), [f"template.date={text}"]).template.date == value


def test_set_reaches_into_one_evaluation(write: Write, minimal: str) -> None:
    """Only the named item changes; the index after the last adds one."""
    evaluation = '[[evaluate]]\nevaluator = "tofu"\n'
    source = write(minimal + evaluation * 2)
    spec = load_spec(source, ["evaluate.1.batch_size=4", "evaluate.2.evaluator=tofu"])
    assert [table.batch_size for table in spec.evaluate] == [16, 4, 16]


def test_evaluations_of_a_spec_replace_those_it_extends(write: Write) -> None:
    """Arrays are replaced, tables merge."""
    source = write('extends = "tofu"\n[[evaluate]]\nevaluator = "tofu"\nbatch_size = 2\n')
    (table,) = load_spec(source).evaluate
    assert (table.every, table.batch_size) == ("end", 2)


def test_another_plugin_starts_without_the_options_of_the_old(write: Write) -> None:
    """tofu has simnpo with beta 4.5 and gamma .125; NPO's own are beta .1 and gamma 1."""
    method = load_spec("tofu", ["method.name=npo"]).method
    assert method.options == {"beta": 0.1, "length_normalized": False}
    assert method.gamma == 1.0
    write('{"question": "q", "answer": "a"}', "rows.jsonl")
    flags = ["data.max_length=99", "data.dataset=files", "data.forget=rows.jsonl"]
    data = load_spec("tofu", flags).data
    assert data.max_length == 99
    assert data.options["forget"].endswith("rows.jsonl")
    assert "locuslab/TOFU" not in data.options.values()


def test_the_same_plugin_keeps_its_inherited_options() -> None:
    """Naming the inherited plugin again changes nothing."""
    assert load_spec("tofu", ["method.name=simnpo"]) == load_spec("tofu")


def test_setting_one_of_two_alternatives_takes_the_inherited_other_back(write: Write) -> None:
    """tofu sets epochs and a retain model; steps and a stored evaluation replace them."""
    spec = load_spec("tofu", ["train.steps=5", "retain_reference.evaluation=retain.json"])
    assert (spec.train.steps, spec.train.epochs) == (5, None)
    assert spec.retain_reference.path is None
    write('extends = "tofu"\n[target]\nbase = "base-model"\n', "made.toml")
    again = load_spec("made.toml", ["model.path=mine"])
    assert (again.model.path, again.target.base) == ("mine", None)


def test_flags_that_contradict_each_other_are_refused(write: Write, minimal: str) -> None:
    """Two alternatives at one level are a mistake, not a choice."""
    with pytest.raises(SpecError, match=r"--set train\.steps=2: given together with epochs"):
        load_spec(write(minimal), ["train.epochs=1", "train.steps=2"])


def test_an_empty_table_takes_nothing_away(write: Write) -> None:
    """`[train]` with no keys leaves the inherited ones, and stands for the defaults elsewhere."""
    source = write('extends = "tofu"\n[train]\n[checkpoints]\n')
    assert load_spec(source) == load_spec("tofu")


def test_a_file_may_be_named_absolutely(write: Write, minimal: str, tmp_path: Path) -> None:
    """An absolute path works from anywhere."""
    write(minimal)
    assert load_spec(str(tmp_path / "spec.toml")).name == "small"

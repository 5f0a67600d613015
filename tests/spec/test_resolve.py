"""From what is written to what runs, and back to TOML."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unlearn_cli.spec import Spec, dump_spec, load_spec
from unlearn_cli.spec.layers import preset_names

Write = Callable[..., str]


def test_the_method_fills_what_is_not_given(write: Write, minimal: str) -> None:
    """SimNPO's published weights for forget10: gamma .125, alpha 1, beta 4.5, retain term NLL."""
    method = load_spec(write(minimal)).method
    assert (method.gamma, method.alpha, method.retain) == (0.125, 1.0, "nll")
    assert method.options == {"beta": 4.5, "delta": 0.0}


def test_without_a_length_there_are_ten_epochs(write: Write, minimal: str) -> None:
    """Neither epochs nor steps: 10 epochs; steps alone: no epochs."""
    source = write(minimal)
    assert load_spec(source).train.epochs == 10.0
    assert load_spec(source, ["train.steps=3"]).train.epochs is None


def test_a_base_turns_the_given_models_off(write: Write, minimal: str) -> None:
    """With `target.base` both models are made, and no path to another stays."""
    source = write(minimal + '[retain_reference]\npath = "r"\n[target]\nbase = "b"\n')
    spec = load_spec(source)
    assert spec.model.path is None
    assert spec.retain_reference.path is None


def test_paths_start_at_their_file_then_at_the_current_folder(
    write: Write, minimal: str, tmp_path: Path
) -> None:
    """Beside the spec first, then here; what does not exist, such as a hub id, stays."""
    for folder in ("specs/near", "near", "here"):
        (tmp_path / folder).mkdir(parents=True)
    text = minimal.replace('"builtin:tiny"', '"near"\ntokenizer = "here"')
    spec = load_spec(write(text + '[retain_reference]\npath = "org/model"\n', "specs/spec.toml"))
    assert spec.model.path == str(tmp_path / "specs" / "near")
    assert spec.model.tokenizer == str(tmp_path / "here")
    assert spec.retain_reference.path == "org/model"


def test_paths_of_flags_start_at_the_current_folder(
    write: Write, minimal: str, tmp_path: Path
) -> None:
    """A flag is written here, wherever the spec stands."""
    for folder in ("specs/near", "near"):
        (tmp_path / folder).mkdir(parents=True)
    spec = load_spec(write(minimal, "specs/spec.toml"), ["model.path=near"])
    assert spec.model.path == str(tmp_path / "near")


def test_paths_of_an_extended_file_start_at_that_file(
    write: Write, minimal: str, tmp_path: Path
) -> None:
    """Each key is resolved where it was written."""
    (tmp_path / "base" / "near").mkdir(parents=True)
    write(minimal.replace("builtin:tiny", "near"), "base/base.toml")
    source = write('extends = "../base/base.toml"\n', "specs/spec.toml")
    path = load_spec(source).model.path
    assert path is not None
    assert Path(path).is_absolute()
    assert Path(path).samefile(tmp_path / "base" / "near")


def test_options_that_hold_a_location_are_paths_too(
    write: Write, minimal: str, tmp_path: Path
) -> None:
    """`files` takes a path, alone or in a table; a column that is named like a file stays."""
    write("", "specs/rows.jsonl")
    write("", "specs/question")
    data = 'dataset = "files"\nforget = "rows.jsonl"\nretain = { path = "rows.jsonl" }'
    source = write(minimal.replace('dataset = "tofu"', data), "specs/spec.toml")
    options = load_spec(source).data.options
    rows = str(tmp_path / "specs" / "rows.jsonl")
    assert options["forget"] == rows
    assert options["retain"] == {"path": rows}
    assert options["question"] == "question"


@pytest.mark.parametrize("path", ["~nobody-of-that-name/model", "x" * 5000, "a\0b"])
def test_text_that_cannot_be_a_path_stays(write: Write, minimal: str, path: str) -> None:
    """No home, too long, a null byte: left as written, for the loader to refuse."""
    source = write(minimal.replace('"builtin:tiny"', tomlkit.item(path).as_string()))
    assert load_spec(source).model.path == path


def test_keywords_of_alternates_are_no_paths(write: Write, minimal: str) -> None:
    """`refusals` means the list that comes with the tool, even beside a file of that name."""
    write("no", "refusals")
    assert load_spec(write(minimal), ["data.alternates=refusals"]).data.alternates == "refusals"


def test_runs_go_to_the_current_folder(write: Write, minimal: str, tmp_path: Path) -> None:
    """`output.folder` need not exist, and is never relative to the spec."""
    assert load_spec(write(minimal, "specs/spec.toml")).output.folder == str(tmp_path / "runs")


def test_the_tofu_preset_is_the_published_protocol() -> None:
    """OpenUnlearning's TOFU forget10 with SimNPO's own hyper-parameters, on the public models."""
    spec = load_spec("tofu")
    assert spec.model.path == "open-unlearning/tofu_Llama-3.2-1B-Instruct_full"
    assert spec.retain_reference.path == "open-unlearning/tofu_Llama-3.2-1B-Instruct_retain90"
    assert spec.template.system == "You are a helpful assistant."  # of its Llama 3 models
    assert spec.data.options["path"] == "locuslab/TOFU"
    assert spec.data.options["forget"] == "forget10"
    assert (spec.method.name, spec.method.gamma, spec.method.alpha) == ("simnpo", 0.125, 1.0)
    assert spec.method.options == {"beta": 4.5, "delta": 0.0}
    for table, epochs in ((spec.train, 10.0), (spec.target, 5.0)):
        assert (table.epochs, table.batch_size, table.learning_rate) == (epochs, 32, 1e-5)
        assert (table.weight_decay, table.warmup_epochs, table.schedule) == (0.01, 1.0, "linear")
    assert spec.target.base is None


@pytest.mark.parametrize("preset", preset_names())
def test_a_resolved_preset_reads_back_the_same(write: Write, preset: str) -> None:
    """What stands in the run folder is the run."""
    spec = load_spec(preset)
    assert load_spec(write(dump_spec(spec))) == spec


text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
positive = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
whole = st.integers(1, 2**40)
every = st.sampled_from(["epoch", "end"]) | whole
specs = st.fixed_dictionaries(
    {
        "name": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,9}", fullmatch=True),
        "model": st.fixed_dictionaries({"path": text}, optional={"revision": text}),
        "data": st.fixed_dictionaries(
            {"dataset": st.just("tofu")},
            optional={"path": text, "retain": text, "max_length": whole, "retain_rows": whole},
        ),
        "method": st.fixed_dictionaries(
            {"name": st.sampled_from(["npo", "simnpo", "dpo"])},
            optional={"beta": positive, "gamma": positive, "retain": st.sampled_from(["kl"])},
        ),
        "train": st.one_of(
            st.fixed_dictionaries({"steps": whole}),
            st.fixed_dictionaries({"learning_rate": positive}, optional={"epochs": positive}),
        ),
        "evaluate": st.lists(
            st.fixed_dictionaries({"evaluator": st.just("tofu"), "every": every}), max_size=3
        ),
    },
    optional={
        "seed": st.integers(0, 2**32 - 1),
        "target": st.fixed_dictionaries({"base": text}),
        "template": st.fixed_dictionaries({"prompt": text.map("{{question}}{}".format)}),
    },
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(specs)
def test_any_resolved_spec_reads_back_the_same(write: Write, tables: dict[str, Any]) -> None:
    """Dumping and loading is the identity on resolved specs, whatever text they hold."""
    spec = load_spec(write(tomlkit.dumps(tables)))
    assert load_spec(write(dump_spec(spec))) == spec


def test_reading_a_spec_imports_nothing_heavy() -> None:
    """Checking takes no torch, whatever the plugins that it names need."""
    script = (
        "import sys; from unlearn_cli.spec import load_spec; load_spec('tofu');"
        "print({'torch', 'transformers', 'datasets', 'scipy', 'tomlkit'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_a_spec_cannot_be_changed() -> None:
    """A spec is a value: what was checked is what runs."""
    with pytest.raises(ValueError, match="frozen"):
        load_spec("tofu").seed = 3  # type: ignore[misc]
    assert isinstance(load_spec("tofu"), Spec)

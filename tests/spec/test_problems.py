"""What bad specs are told: where, what, and what would work."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unlearn_cli import catalog
from unlearn_cli.errors import SpecError
from unlearn_cli.spec import Spec, load_spec

Write = Callable[..., str]


def complaints(source: str, *overrides: str) -> list[str]:
    """The lines that a user sees."""
    with pytest.raises(SpecError) as caught:
        load_spec(source, overrides)
    assert caught.value.exit_code == 2
    return [problem.line() for problem in caught.value.problems]


def test_everything_wrong_is_reported_at_once_in_the_order_of_lines(write: Write) -> None:
    """Types, ranges, unknown keys, plugins, their options and flags: one report, each located."""
    source = write(
        """\
name = "x"
sede = 1
[model]
path = "m"
dtype = "bfloat61"
[data]
dataset = "tofo"
[method]
name = "simnpo"
beta = 0
gama = 1
[train]
epochs = -3
batch_size = 2.5
[[evaluate]]
evaluator = "tofu"
every = 0
"""
    )
    assert complaints(source, "train.micro_batch=yes") == [
        '--set train.micro_batch=yes: must be a whole number greater than 0 or "auto", not "yes"',
        "spec.toml:2: sede: unknown key; did you mean seed?",
        'spec.toml:5: [model].dtype: must be "auto", "float32" or "bfloat16", not "bfloat61"; '
        'did you mean "bfloat16"?',
        "spec.toml:7: [data].dataset: there is no dataset 'tofo'; did you mean 'tofu'?",
        "spec.toml:10: [method].beta: must be float > 0, not 0",
        "spec.toml:11: [method].gama: neither a key of [method] nor an option of simnpo; "
        "did you mean gamma?",
        "spec.toml:13: [train].epochs: must be a number greater than 0, not -3",
        "spec.toml:14: [train].batch_size: must be a whole number greater than 0, not 2.5",
        'spec.toml:17: [evaluate.0].every: must be "epoch" or "end" or a whole number greater '
        "than 0, not 0",
    ]


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("method.beta=0", "must be float > 0, not 0"),
        ("method.beta=nan", "must be float > 0, not nan"),
        ("method.beta=high", "must be float > 0, not 'high'"),
        ("method.gamma=nan", "must be a number, 0 or more, not nan"),
        ("method.gamma=-1", "must be a number, 0 or more, not -1"),
        ("verdict.utility=1.5", "must be a number from 0 to 1, not 1.5"),
        ("seed=-1", "must be a whole number from 0 to 4294967295, not -1"),
        ("seed=true", "must be a whole number from 0 to 4294967295, not true"),
        ("model.path=3", "must be text in quotes, not empty, not 3"),
        ('model.path=""', 'must be text in quotes, not empty, not ""'),
        ("output.tensorboard=1", "must be true or false, not 1"),
        ("train=3", "must be a table, not 3"),
        ("train.leraning_rate=1", "unknown key; did you mean learning_rate?"),
        ("method.warmup_epochs=1", "it belongs in [target], [reinforce] or [train]"),
        ("train.schedule=linaer", 'did you mean "linear"?'),
        ("template.prompt=Q:", "has no {question} in it"),
        ("method.retain=hidden", "makes no sense with method 'simnpo'; use none or nll or kl"),
        ("method.kl_positions=all", "says where retain = 'nll' is taken"),
        ("alternates.prompt=Lie.", "has no {question} in it"),
        ("method.parameters=[]", "must be a list of text in quotes, not empty"),
        ('method.parameters=[""]', "must be a list of text in quotes, not empty"),
        (
            "method.parameters=*",
            'must be a list of text in quotes, not empty, not "*"; write ["*"]',
        ),
        ("checkpoints.best=forget_qualty", "did you mean 'forget_quality'?"),
        ("checkpoints.best=forget_quality", "there is no evaluation to choose by"),
        ("method.name=simnpoo", "there is no method 'simnpoo'; did you mean 'simnpo'?"),
        ("train.steps", "not of the form KEY=VALUE"),
        ("train.steps=", "not of the form KEY=VALUE"),
        ("train..steps=3", "'train..steps' is not a key"),
        ("train.steps=[1", "the value is not valid TOML"),
        ("evaluate.2.every=3", "there is no [[evaluate]] 2; there are 0, counted from 0"),
        ("evaluate=[{every=3}]", "[evaluate.0].evaluator: missing; Name of the evaluator"),
        ("model.path=\udcff", "not UTF-8 text"),
    ],
)
def test_a_bad_flag_is_named_in_full(
    write: Write, minimal: str, override: str, complaint: str
) -> None:
    """The location of a flag is the flag; the message says what would work."""
    lines = complaints(write(minimal), override)
    assert any(line.startswith(f"--set {override}: ") and complaint in line for line in lines)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "spec.toml: the spec is empty; `unlearn init`"),
        ("# nothing\n\n", "spec.toml: the spec is empty"),
        ('name = "x"\nseed = oops\n', "spec.toml:2: not valid TOML at column 8: Invalid value"),
        ("seed = 1\nseed = 2\n", "spec.toml:2: not valid TOML"),
        ('name = "x"\n[model\n', "spec.toml:2: not valid TOML"),
        ('name = "x"\n\nlist = [1,', "spec.toml:3: not valid TOML"),
    ],
)
def test_what_is_no_toml_is_told_its_line(write: Write, text: str, complaint: str) -> None:
    """A syntax error has its line and column, an empty file a way on."""
    (line,) = complaints(write(text))
    assert line.startswith(complaint)


def test_a_spec_that_is_not_utf8_is_told_the_byte(write: Write, tmp_path: Path) -> None:
    """Latin-1 text is refused with the line and the byte."""
    source = write("")
    (tmp_path / source).write_bytes(b'seed = 1\nname = "caf\xe9"\n')
    assert complaints(source) == [
        "spec.toml:2: not UTF-8 text (byte 0xe9); save it as UTF-8",
    ]


def test_a_byte_order_mark_and_windows_lines_are_fine(
    write: Write, minimal: str, tmp_path: Path
) -> None:
    """What Windows editors write reads the same, and lines still count right."""
    source = write("")
    text = "\ufeff" + minimal.replace("\n", "\r\n")
    (tmp_path / source).write_bytes(text.encode())
    assert load_spec(source).name == "small"
    (tmp_path / source).write_bytes((text + "beta = 0\r\n").encode())
    assert complaints(source) == ["spec.toml:8: [method].beta: must be float > 0, not 0"]


def test_a_missing_spec_gets_a_suggestion(write: Write, tmp_path: Path) -> None:
    """Neither a file nor a preset: did you mean; a folder is no spec."""
    write("", "folder/empty.toml")
    assert complaints("toffu") == [
        "no file and no preset is called 'toffu'; did you mean tofu?",
    ]
    assert complaints("folder") == ["folder is no file; name a TOML file"]


def test_missing_tables_and_keys_are_named(write: Write) -> None:
    """A key that is missing is located at its table, a table at the file."""
    assert complaints(write('name = "x"\n\n[method]\nbeta = 1\n')) == [
        "spec.toml: [data]: missing",
        "spec.toml: [model].path: missing; give a hub id, a folder or a .gguf file, or make the "
        "target with target.base",
        "spec.toml:3: [method].name: missing; Name of the method plugin (`unlearn list-methods`)",
    ]


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ("[train]\nepochs = 1\nsteps = 2", ":10: [train].steps: given together with epochs"),
        (
            '[retain_reference]\npath = "a"\nevaluation = "b"',
            ":10: [retain_reference].evaluation: given together with path",
        ),
        ('[lora]\nbase = "nf4"', ":9: [lora].base: there is no adapter to train on it; set lora."),
        (
            '[lora]\nrank = 8\nbase = "nf4"\n[wrap]\nsaliency = 0.1',
            ":12: [wrap].saliency: needs gradients of the weights, and those in 4 bits have none",
        ),
        (
            '[lora]\nrank = 8\nbase = "int4"',
            ':10: [lora].base: must be "full" or "nf4", not "int4"',
        ),
        (
            '[train]\noptimizer = "adam_8bit"',
            ':9: [train].optimizer: must be "adamw", "adamw_8bit" or "adafactor", not "adam_8bit"; '
            'did you mean "adamw_8bit"?',
        ),
        ('[evaluate]\nevaluator = "tofu"', ":8: [evaluate]: must be an array of tables, not a"),
        ("[[train]]\nsteps = 1", ":8: [train]: must be a table, not an array; write [train] in"),
        ('[output]\nfolder = "spec.toml"', ":9: [output].folder: spec.toml is a file"),
        ("[trian]\nsteps = 1", ":8: trian: unknown key; did you mean train?"),
        ("[train]\nsteps = 1979-05-27", ":9: [train].steps: must be a whole number greater than"),
    ],
)
def test_tables_that_contradict_are_told_so(
    write: Write, minimal: str, table: str, complaint: str
) -> None:
    """Keys that exclude each other, and the wrong kind of brackets."""
    (line,) = complaints(write(f"{minimal}{table}\n"))
    assert line.startswith(f"spec.toml{complaint}")


def test_a_missing_option_of_a_plugin_is_named(write: Write, minimal: str) -> None:
    """`files` needs `forget`; the problem is at the table that lacks it."""
    source = write(minimal.replace('dataset = "tofu"', 'dataset = "files"'))
    assert any(
        line.startswith("spec.toml:4: [data].forget: is missing") for line in complaints(source)
    )


def test_a_broken_plugin_is_named_with_its_distribution(
    write: Write, minimal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plugin that cannot be used stops the spec; its options are not judged."""
    broken = catalog.Plugin("method", "simnpo", "x:Y", "unlearn-x", "1.0", error="no module x")
    find = catalog.find
    monkeypatch.setattr(
        catalog, "find", lambda kind, name: broken if kind == "method" else find(kind, name)
    )
    assert complaints(write(f"{minimal}anything = 1\n")) == [
        "spec.toml:7: [method].name: method simnpo of unlearn-x is broken: no module x; "
        "repair or uninstall unlearn-x"
    ]


def test_a_problem_in_an_extended_file_names_that_file(write: Write, minimal: str) -> None:
    """The location is where the key was written, not where reading began."""
    write(f"{minimal}beta = 0\n", "base/base.toml")
    source = write('extends = "base/base.toml"\nseed = -1\n')
    assert complaints(source) == [
        "spec.toml:2: seed: must be a whole number from 0 to 4294967295, not -1",
        "base/base.toml:8: [method].beta: must be float > 0, not 0",
    ]


def test_extends_that_goes_in_a_circle_is_refused(write: Write) -> None:
    """A cycle names its files, and reading ends."""
    write('extends = "b.toml"\n', "a.toml")
    write('\nextends = "a.toml"\n', "b.toml")
    assert complaints("a.toml") == [
        "b.toml:2: extends: extends goes in a circle: a.toml -> b.toml -> a.toml"
    ]


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ('"toffu"', "spec.toml:1: extends: no file and no preset is called 'toffu'; did you mean"),
        ("3", "spec.toml:1: extends: must be a preset or a file, in quotes"),
    ],
)
def test_extends_of_nothing_is_refused(write: Write, value: str, complaint: str) -> None:
    """What cannot be extended is located."""
    (line,) = complaints(write(f"extends = {value}\n"))
    assert line.startswith(complaint)


inner_keys = ["path", "base", "dataset", "evaluator", "every", "steps", "prompt", "folder", "best"]
keys = st.sampled_from([*Spec.model_fields, *inner_keys, "forget", "beta", "a.b"])
scalars = st.sampled_from(
    [0, -1, 2.5, float("nan"), True, "", "tofu", "simnpo", "a\nb", "@", "\0", "~nobody"]
)
tables = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(keys, tables, min_size=1, max_size=6))
def test_nonsense_is_told_and_never_a_traceback(write: Write, document: dict[str, Any]) -> None:
    """Whatever stands where, a spec that cannot run raises SpecError and nothing else."""
    source = write(tomlkit.dumps({"extends": "tofu", **document}))
    with contextlib.suppress(SpecError):
        assert load_spec(source).name


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        (("method.name=pdu", "method.retain=none"), "'none' makes no sense with method 'pdu'"),
        (("method.name=alt_po",), "method 'alt_po' needs alternates that were made for each"),
    ],
)
def test_what_a_method_cannot_do_is_said_without_importing_it(
    write: Write, minimal: str, setting: tuple[str, ...], line: str
) -> None:
    """Class attributes of the method are read from its source."""
    assert any(line in found for found in complaints(write(minimal), *setting))


def test_plugins_that_an_option_names_are_looked_up(write: Write, minimal: str) -> None:
    """Metrics and their options, and the evaluator inside a stress test, each at its place."""
    evaluate = """
[[evaluate]]
evaluator = "qa"
row_metrics = ["rouge", "rogue"]
[evaluate.options.rouge]
kind = 1e999
[[evaluate]]
evaluator = "relearn"
of = "toffu"
"""
    text = minimal + evaluate
    source = write(text)

    def line(of: str) -> int:
        return text.split("\n").index(of) + 1

    metric, option, inside = complaints(source)
    names = line('row_metrics = ["rouge", "rogue"]')
    assert metric.startswith(f"spec.toml:{names}: [evaluate.0].")
    assert metric.endswith("row_metrics.1: there is no metric 'rogue'; did you mean 'rouge'?")
    assert option == (
        f"spec.toml:{line('kind = 1e999')}: [evaluate.0].options.rouge.kind: "
        "metric rouge has no such option"
    )
    assert inside == (
        f"spec.toml:{text.count(chr(10))}: [evaluate.1].of: "
        "there is no evaluator 'toffu'; did you mean 'tofu'?"
    )


def test_what_is_wrong_within_the_value_of_a_flag_is_named(write: Write, minimal: str) -> None:
    """The flag itself names only where its value stands."""
    flag = "evaluate=[{evaluator='qa', options={rouge={kind=1}}}]"
    assert complaints(write(minimal), flag) == [
        f"--set {flag}: [evaluate.0].options.rouge.kind: metric rouge has no such option"
    ]

"""`unlearn check`, `schema` and `init`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # it has no types of its own
import pytest
import tomlkit

from unlearn_cli.cli import main
from unlearn_cli.spec import load_spec


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def unlearn(*args: str) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as left:
        main(args)
    return int(left.value.code or 0)


def test_check_sums_up_a_spec_that_can_run(capsys: pytest.CaptureFixture[str]) -> None:
    """One line on stdout says what would run, overrides included."""
    assert unlearn("check", "tofu", "--set", "train.steps=5") == 0
    assert capsys.readouterr().out == (
        "ok: tofu-forget10-simnpo: simnpo on tofu, 5 steps of batches of 32, evaluated by tofu\n"
    )


def test_check_reports_every_problem_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, one line a problem, no traceback."""
    assert unlearn("check", "tofu", "--set", "seed=-1", "--set", "train.keep=1") == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[:2] for line in lines] == [
        ["error", "--set seed=-1"],
        ["error", "--set train.keep=1"],
    ]


def test_check_as_json_gives_the_resolved_spec(capsys: pytest.CaptureFixture[str]) -> None:
    """What machines read is the spec with its defaults."""
    assert unlearn("check", "tofu", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is True
    assert told["spec"]["method"]["gamma"] == 0.125


def test_check_as_json_gives_the_problems(capsys: pytest.CaptureFixture[str]) -> None:
    """Problems are on stdout in parts, with the same exit code."""
    assert unlearn("check", "tofu", "--json", "--set", "data.dataset=tofoo") == 2
    assert json.loads(capsys.readouterr().out) == {
        "ok": False,
        "problems": [
            {
                "where": "--set data.dataset=tofoo",
                "what": "there is no dataset 'tofoo'",
                "hint": "did you mean 'tofu'?",
            }
        ],
    }


def printed_schema(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What `unlearn schema` prints."""
    assert unlearn("schema") == 0
    schema: dict[str, Any] = json.loads(capsys.readouterr().out)
    return schema


def test_the_schema_is_a_schema_and_takes_the_preset(capsys: pytest.CaptureFixture[str]) -> None:
    """It is valid draft 2020-12, and what runs passes it."""
    schema = printed_schema(capsys)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    preset = Path(__file__).parents[2] / "unlearn_cli" / "presets" / "tofu.toml"
    validator.validate(tomlkit.parse(preset.read_text(encoding="utf-8")).unwrap())
    validator.validate({"extends": "tofu", "method": {"beta": 1.0}})


@pytest.mark.parametrize(
    "spec",
    [
        {"extends": "tofu", "sede": 1},
        {"extends": "tofu", "method": {"name": "simnpoo"}},
        {"extends": "tofu", "method": {"name": "simnpo", "beta": "high"}},
        {"extends": "tofu", "train": {"batch_size": 0}},
        {"extends": "tofu", "checkpoints": {"every": "never"}},
        {"extends": 3},
        {"name": "x"},
    ],
)
def test_the_schema_refuses_what_check_refuses(
    capsys: pytest.CaptureFixture[str], spec: dict[str, Any]
) -> None:
    """An editor marks unknown keys, wrong types, ranges, unknown plugins and missing tables."""
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(printed_schema(capsys)).validate(spec)


def test_the_schema_says_what_each_key_means(capsys: pytest.CaptureFixture[str]) -> None:
    """Descriptions are the docstrings of the keys, plugins' options included; null is unknown."""
    schema = printed_schema(capsys)
    train = schema["$defs"]["TrainTable"]["properties"]
    assert train["batch_size"]["description"].startswith("Forget examples in an optimizer step")
    assert all(
        "description" in key
        for table in schema["$defs"].values()
        for key in table["properties"].values()
    )
    assert "null" not in json.dumps(schema)


def test_init_writes_a_spec_that_passes_and_equals_its_preset() -> None:
    """Preset values are live, every other key stands commented out at its default."""
    assert unlearn("init", "mine.toml") == 0
    text = Path("mine.toml").read_text(encoding="utf-8")
    assert text.startswith("#:schema ./unlearn.schema.json\n")
    assert load_spec("mine.toml") == load_spec("tofu")
    assert "# Rows in one forward pass of one process, or `auto`" in text
    assert "# micro_batch = 8" in text
    assert json.loads(Path("unlearn.schema.json").read_text(encoding="utf-8"))["title"]


def test_every_default_that_init_comments_out_is_the_default() -> None:
    """Taking the `#` off all keys that have a value changes nothing."""
    assert unlearn("init") == 0
    lines = Path("spec.toml").read_text(encoding="utf-8").splitlines()
    is_key = [line.startswith("# ") and " = " in line for line in lines]
    assert sum(is_key) > 20
    live = [line[2:] if key else line for line, key in zip(lines, is_key, strict=True)]
    Path("live.toml").write_text("\n".join(live), encoding="utf-8")
    assert load_spec("live.toml") == load_spec("tofu")


def test_init_never_overwrites(capsys: pytest.CaptureFixture[str]) -> None:
    """A spec that is there, or a foreign file in the schema's place, stops it."""
    Path("spec.toml").write_text("mine", encoding="utf-8")
    assert unlearn("init") == 2
    assert "spec.toml: there is a file already" in capsys.readouterr().err
    assert Path("spec.toml").read_text(encoding="utf-8") == "mine"
    Path("unlearn.schema.json").write_text("[]", encoding="utf-8")
    assert unlearn("init", "other.toml") == 2
    assert "unlearn.schema.json: is not a schema of unlearn" in capsys.readouterr().err
    assert not Path("other.toml").exists()


def test_init_again_beside_an_earlier_schema_renews_it() -> None:
    """A second spec in the folder shares the schema, which then knows new plugins."""
    assert unlearn("init", "a.toml") == 0
    Path("unlearn.schema.json").write_text('{"title": "unlearn spec"}', encoding="utf-8")
    assert unlearn("init", "b.toml") == 0
    assert "$defs" in json.loads(Path("unlearn.schema.json").read_text(encoding="utf-8"))


def test_init_says_where_it_cannot_write(capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that is not there is one line, not a traceback."""
    assert unlearn("init", "nowhere/spec.toml") == 2
    assert "nowhere/spec.toml: cannot be written: No such file" in capsys.readouterr().err


def test_the_commands_import_nothing_heavy() -> None:
    """The module costs neither torch nor pydantic until a command runs."""
    script = (
        "import sys, unlearn_cli.cli.spec;"
        "print({'torch', 'pydantic', 'tomlkit', 'transformers'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")

"""`unlearn list-*` and `unlearn show`, as a user and as a script sees them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from unlearn_cli import catalog
from unlearn_cli.cli import unlearn
from unlearn_cli.errors import PluginError

Install = Callable[..., Path]


def output(*args: str) -> str:
    result = CliRunner().invoke(unlearn, args, catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


@pytest.mark.parametrize("kind", catalog.KINDS)
def test_a_list_has_a_line_for_each_plugin(kind: catalog.Kind) -> None:
    """Name first, distribution last, columns aligned; everything that is installed, sorted."""
    lines = output(f"list-{kind}s").splitlines()
    installed = catalog.plugins(kind)

    assert [line.split()[0] for line in lines] == [plugin.name for plugin in installed]
    assert len({line.rindex("unlearn-cli") for line in lines}) == 1


def test_a_list_as_json_says_all_that_is_known() -> None:
    """A script gets names, options with defaults, requirements and origin."""
    found = {entry["name"]: entry for entry in json.loads(output("list-methods", "--json"))}

    assert found["npo"]["requires"] == ["forget", "reference"]
    assert found["npo"]["defaults"] == {
        "gamma": 1.0,
        "alpha": 1.0,
        "retain": "nll",
        "parameters": ["*"],
    }
    assert found["npo"]["options"][0]["default"] == 0.1
    assert found["npo"]["file"].endswith("npo.py")


def test_a_broken_plugin_is_listed_with_its_error(install: Install) -> None:
    """One broken plugin is named in its line and the others are listed as ever."""
    install("unlearn-extra", {"unlearn.methods": {"broken": "no_such_module:X"}})

    lines = {line.split()[0]: line for line in output("list-methods").splitlines()}

    assert "BROKEN: there is no module no_such_module" in lines["broken"]
    assert "unlearn-extra 1.2" in lines["broken"]
    assert "BROKEN" not in lines["npo"]


def test_show_prints_what_a_user_of_a_method_needs() -> None:
    """Range, default and meaning of each option, the shared ones, paper, needs and file."""
    text = output("show", "simnpo")
    words = [line.split() for line in text.splitlines()]

    assert "Source: Fan et al." in text
    assert ["requires", "forget"] in words
    assert any(line[:5] == ["beta", "float", ">", "0", "="] for line in words)
    assert any(line[:4] == ["gamma", "float", "=", "0.125"] for line in words)
    assert any(line[:1] == ["file"] and line[1].endswith("simnpo.py") for line in words)


def test_show_finds_the_kind_by_itself() -> None:
    """A name that a data set and an evaluator share shows both; `--kind` shows one."""
    both = json.loads(output("show", "tofu", "--json"))
    one = json.loads(output("show", "tofu", "--kind", "evaluator", "--json"))

    assert [plugin["kind"] for plugin in both] == ["dataset", "evaluator"]
    assert [plugin["kind"] for plugin in one] == ["evaluator"]


def test_show_picks_one_of_two_distributions(install: Install) -> None:
    """`npo@unlearn-extra` shows that one alone; the bare name shows both, with the clash."""
    text = 'class X:\n    """Mine."""\n'
    install("unlearn-extra", {"unlearn.methods": {"npo": "extra_x:X"}}, extra_x=text)

    assert "claimed by" in output("show", "npo")
    assert [p["summary"] for p in json.loads(output("show", "npo@unlearn-extra", "--json"))] == [
        "Mine."
    ]


def test_an_unknown_name_gets_a_suggestion() -> None:
    """The error names the close one."""
    with pytest.raises(PluginError, match=r"there is no plugin 'simpno'; did you mean 'simnpo'\?"):
        CliRunner().invoke(unlearn, ["show", "simpno"], catch_exceptions=False)

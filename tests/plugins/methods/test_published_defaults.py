"""The defaults of the methods are those of the papers."""

from __future__ import annotations

from typing import Any

import pytest

from unlearn_cli import catalog
from unlearn_cli.errors import SpecError


@pytest.mark.parametrize(
    ("name", "options", "shared"),
    [
        ("grad_ascent", {}, (1.0, 1.0, "none")),
        ("grad_diff", {}, (1.0, 1.0, "nll")),
        ("npo", {"beta": 0.1, "length_normalized": False}, (1.0, 1.0, "nll")),
        ("simnpo", {"beta": 4.5, "delta": 0.0}, (0.125, 1.0, "nll")),
        ("dpo", {"beta": 0.1}, (1.0, 1.0, "nll")),
        ("alt_po", {"beta": 0.1}, (1.0, 1.0, "nll")),
        ("kl_min", {}, (1.0, 1.0, "kl")),
        ("idk_nll", {}, (1.0, 1.0, "nll")),
        ("undial", {"beta": 10.0}, (1.0, 1.0, "none")),
        ("ce_u", {"ignore_first_n_answer_tokens": 1}, (1.0, 1.0, "none")),
        ("wga", {"beta": 5.0}, (1.0, 1.0, "nll")),
        ("tnpo", {"beta": 4.0}, (1.0, 1.0, "nll")),
        ("wtnpo", {"beta": 4.0, "exponent": 1.5}, (1.0, 1.0, "nll")),
        ("satimp", {"beta1": 5.0, "beta2": 1.0}, (1.0, 0.1, "nll")),
        ("ihl", {}, (1.0, 1.0, "nll")),
        ("flat", {"divergence": "total_variation"}, (1.0, 1.0, "none")),
        ("pdu", {"epsilon": 0.3, "eta": 5.0, "warmup_epochs": 5.0}, (1.0, 100.0, "nll")),
        ("task_vector", {"scale": 5.0}, (1.0, 0.0, "none")),
    ],
)
def test_defaults(name: str, options: dict[str, Any], shared: tuple[float, float, str]) -> None:
    """What is listed without importing is what the class has, and both are the papers' values."""
    plugin = catalog.find("method", name)
    made = catalog.build("method", name, {})

    assert {option.name: option.default for option in plugin.options} == options
    assert vars(made) == options
    assert tuple(plugin.defaults.values()) == (*shared, ("*",))
    assert (made.defaults.gamma, made.defaults.alpha, made.defaults.retain) == shared


@pytest.mark.parametrize("name", ["npo", "simnpo", "dpo"])
@pytest.mark.parametrize("beta", [0, -1.0, float("nan"), float("inf"), True, "0.1"])
def test_beta_is_a_positive_number(name: str, beta: object) -> None:
    """Anything else is refused before anything is imported, and by the class's own types."""
    problems = catalog.check_options(catalog.find("method", name), {"beta": beta})

    assert [problem.key for problem in problems] == ["beta"]
    with pytest.raises(SpecError, match=f"method {name}.beta"):
        catalog.build("method", name, {"beta": beta})


OURS = [plugin for plugin in catalog.plugins("method") if plugin.distribution == "unlearn-cli"]


@pytest.mark.parametrize("plugin", OURS, ids=lambda plugin: plugin.name)
def test_a_method_names_its_paper_and_stays_small(plugin: catalog.Plugin) -> None:
    """arXiv id and numbered differences in the docstring; the class is at most 45 lines, 120
    where it reads activations."""
    assert plugin.file is not None
    body = plugin.file.read_text(encoding="utf-8").partition("@dataclass")[2]

    assert "arXiv:" in plugin.source
    assert "\n1. " in plugin.doc
    assert len(body.splitlines()) <= (120 if "hidden" in plugin.requires else 45)

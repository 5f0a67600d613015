"""What the TOFU evaluator asks for."""

from __future__ import annotations

from unlearn_plugins.evaluators.tofu import TOFUEvaluator

from unlearn_cli.api import Bundle, Decoding, Evaluator, Probe, Row

BARE = Row.qa("bare", "Who?", "Ann")
FULL = Row.qa("full", "Who?", "Ann", paraphrase="It is Ann", perturbed=("Bob", "Cy"))
OPTIONS = Row.qa("options", "Who?", "Ann", perturbed=("Bob", "Cy", "Di"))
BUNDLE = Bundle(
    forget=(BARE,),
    retain=(BARE, BARE),
    holdout=(BARE,),
    evaluation={"world_facts": (OPTIONS,), "forget": (FULL, FULL), "holdout": (FULL,)},
)


def sets(probes: list[Probe]) -> list[str]:
    return [probe.set for probe in probes]


def test_it_is_an_evaluator() -> None:
    """It has everything that the engine asks of an evaluator."""
    assert isinstance(TOFUEvaluator(), Evaluator)


def test_every_set_is_scored() -> None:
    """Forget first, then retain (its training rows, lacking others), then the rest, the holdout
    last: it has no other use than the attacks."""
    probes = list(TOFUEvaluator().probes(BUNDLE))
    known = ["forget", "forget", "retain", "retain", "world_facts"]
    assert sets(probes) == [*known, "holdout"]
    assert sets(list(TOFUEvaluator(attacks=False).probes(BUNDLE))) == known


def test_the_attacks_compare_forget_with_holdout() -> None:
    """The same metrics on both, on no other set, and by gradients only if asked for."""
    metrics = TOFUEvaluator().metrics(BUNDLE)
    attacks = ("loss", "zlib", "min_k", "min_k_plus_plus")
    assert metrics["holdout"] == metrics["forget"][-4:] == attacks
    assert "loss" not in metrics["retain"]
    assert "gradient_norm" in TOFUEvaluator(gradient_norm=True).metrics(BUNDLE)["holdout"]
    assert "holdout" not in TOFUEvaluator(attacks=False).metrics(BUNDLE)


def test_rows_limits_each_set() -> None:
    """The first N of every set, not N in all."""
    found = sets(list(TOFUEvaluator(rows=1).probes(BUNDLE)))
    assert found == ["forget", "retain", "world_facts", "holdout"]


def test_a_row_is_asked_for_what_it_has() -> None:
    """Paraphrase and false answers are scored where they exist."""
    asked = {p.row.id: p.score for p in TOFUEvaluator(attacks=False).probes(BUNDLE)}
    assert asked == {
        "full": ("answer", "paraphrase", "perturbed"),
        "bare": ("answer",),
        "options": ("answer", "perturbed"),
    }


def test_sets_with_options_get_the_normalised_probability() -> None:
    """False answers and no paraphrase: options to choose from; the forget set always has the
    plain probability."""
    metrics = TOFUEvaluator().metrics(BUNDLE)
    assert {name: names[0] for name, names in metrics.items()} == {
        "forget": "probability",
        "retain": "probability",
        "world_facts": "normalized_probability",
        "holdout": "loss",
    }


def test_plain_text_is_not_answered() -> None:
    """A text has no question, so nothing is generated; nor is anything with `generate = false`."""
    text = Bundle(forget=(Row("t", "Once upon a time", kind="text"),), retain=(BARE,))
    assert [probe.generate for probe in TOFUEvaluator().probes(text)] == [None, Decoding(200)]
    assert [probe.generate for probe in TOFUEvaluator(generate=False).probes(text)] == [None] * 2

"""The verdict, case by case."""

from __future__ import annotations

import pytest

from unlearn_cli.api import Number, Table
from unlearn_cli.spec.tables import VerdictTable
from unlearn_cli.verdict import Stressed, Verdict, judge

REASON = "no retain reference; give one with `--set retain_reference.path=MODEL`"


def table(
    *,
    quality: float | None = None,
    utility: float | None = None,
    probability: float | None = None,
    retain: float | None = None,
    ratios: tuple[float | None, ...] = (),
    rouge: float | None = None,
    fluency: float | None = None,
) -> Table:
    numbers = {
        "forget.rouge": Number(rouge, "lower"),
        "retain.fluency": Number(fluency, "higher"),
        "forget.fluency": Number(0.0, "higher"),
        "forget.probability": Number(probability, "lower"),
        "retain.probability": Number(retain, "higher"),
        "forget_quality": Number(quality, "higher", reason=REASON),
        "model_utility": Number(utility, "higher"),
    }
    rows = {"forget": {"truth_ratio": {str(k): value for k, value in enumerate(ratios)}}}
    return Table(rows, numbers)


TARGET = table(utility=0.6, probability=0.99, retain=0.9)
REFERENCE = table(utility=0.6, probability=0.15, ratios=(0.6, 0.7, 0.8))


def verdict(after: Table | None, *, target: Table | None = TARGET) -> Verdict:
    return judge(after, target, REFERENCE, VerdictTable())


def test_forgotten_at_no_cost() -> None:
    """Quality above .05 and .57 of .6 utility, 95 %: forgotten, nothing missed."""
    found = verdict(table(quality=0.4, utility=0.57))
    assert (found.name, found.missed) == ("forgotten", ())
    assert "95% of the target's model utility (0.570 of 0.600)" in found.explanation


def test_forgotten_at_a_cost_is_said() -> None:
    """.42 of .6 is 70 %, below the 90 % asked for: still forgotten, and the price is named."""
    found = verdict(table(quality=0.4, utility=0.42))
    assert (found.name, found.missed) == ("forgotten", ("utility",))
    assert "but utility fell to 70% of the target's" in found.explanation
    assert "90% were to be kept" in found.explanation


def test_forgotten_at_unknown_cost_is_said() -> None:
    """Without the target's evaluation the cost is not claimed to be nothing."""
    found = verdict(table(quality=0.4, utility=0.57), target=None)
    assert (found.name, found.missed) == ("forgotten", ())
    assert "not known" in found.explanation


@pytest.mark.parametrize("quality", [0.9, 0.001, None])
def test_a_broken_model_is_collapsed_whatever_its_forget_quality(quality: float | None) -> None:
    """Less than half of the utility left: a broken model's forget quality means nothing."""
    found = verdict(table(quality=quality, utility=0.29))
    assert found.name == "collapsed"
    assert "48%" in found.explanation
    assert "utility" in found.missed


def test_retain_probability_stands_in_for_a_null_utility() -> None:
    """Own data without false answers still shows a collapse: .09 of .9 is 10 %."""
    found = verdict(table(retain=0.09))
    assert found.name == "collapsed"
    assert "10% of the target's retain probability" in found.explanation


def test_the_threshold_itself_is_not_above_it() -> None:
    """Forget quality of exactly .05 does not pass."""
    found = verdict(table(quality=0.05, utility=0.6, probability=0.5, ratios=(0.1, 0.2, 0.3)))
    assert (found.name, found.missed) == ("not forgotten", ("forget_quality",))


def test_a_model_that_still_knows_is_not_forgotten() -> None:
    """Answers likelier and truth ratios lower than the reference's: on the target's side."""
    found = verdict(table(quality=1e-9, utility=0.6, probability=0.9, ratios=(0.3, 0.4, 0.5)))
    assert found.name == "not forgotten"
    assert "0.900, retain reference 0.150" in found.explanation


@pytest.mark.parametrize(
    ("probability", "ratios", "said"),
    [
        (0.2, (0.9, 1.5, 2.0), "truth ratio 1.5, retain reference 0.7"),
        (1e-6, (0.3, 0.4, 0.5), "1e-06, retain reference 0.15"),
        (1e-6, (0.9, None, 2.0), "truth ratio 1.45, retain reference 0.7"),
    ],
)
def test_beyond_the_reference_is_over_forgotten(
    probability: float, ratios: tuple[float | None, ...], said: str
) -> None:
    """False answers likelier, or true ones less probable, than to a model that never saw them."""
    found = verdict(table(quality=1e-9, utility=0.6, probability=probability, ratios=ratios))
    assert (found.name, found.missed) == ("over-forgotten", ("forget_quality",))
    assert said in found.explanation


def test_a_little_less_probable_is_not_beyond() -> None:
    """Answers a shade less probable than the reference's, with truth ratios on the target's side:
    the tested quantity says that it still knows."""
    found = verdict(table(quality=1e-9, utility=0.6, probability=0.149, ratios=(0.3, 0.4, 0.5)))
    assert found.name == "not forgotten"


def test_a_target_that_never_knew_shows_nothing() -> None:
    """Where the target's own forget quality is above the threshold, nothing was there to forget."""
    found = verdict(table(quality=0.4, utility=0.6), target=table(quality=0.3, utility=0.6))
    assert found.name == "unknown"
    assert "Before unlearning, forget quality is 0.3" in found.explanation


def test_without_reference_what_is_known_is_said() -> None:
    """Unknown names the option that makes it known, and probability before and after."""
    found = judge(table(utility=0.6, probability=0.2), TARGET, None, VerdictTable())
    assert (found.name, found.missed) == ("unknown", ())
    assert "--set retain_reference.path=MODEL" in found.explanation
    assert "0.200, before 0.990" in found.explanation


def test_without_evaluation_nothing_is_claimed() -> None:
    """A run that evaluates nothing has the verdict unknown and says what to add."""
    found = verdict(None)
    assert found.name == "unknown"
    assert "[[evaluate]]" in found.explanation


def test_a_target_without_utility_has_none_to_lose() -> None:
    """Utility 0 before divides nothing."""
    found = verdict(table(quality=0.4, utility=0.0), target=table(utility=0.0))
    assert found.name == "forgotten"


def stressed(after: Table, control: Table | None) -> Verdict:
    """A model that counts as forgotten, under one stress test; ROUGE lies at 1 before and at .2 in
    the reference, probability at .9 and .1."""
    target = table(quality=1e-9, utility=0.6, probability=0.9, rouge=1.0)
    reference = table(quality=1.0, utility=0.6, probability=0.1, rouge=0.2)
    forgotten = table(quality=0.4, utility=0.6, probability=0.1, rouge=0.2)
    tests = {"relearn": Stressed(after, control)}
    return judge(forgotten, target, reference, VerdictTable(), tests)


def test_a_stress_test_that_brings_it_back_makes_it_recoverable() -> None:
    """ROUGE .7 against .3 of the control is half of the gap of .8, above the quarter allowed."""
    found = stressed(table(quality=0.2, rouge=0.7), table(quality=1.0, rouge=0.3))
    assert (found.name, found.missed) == ("recoverable", ("recovered",))
    assert "under relearn 50% of the lost forget.rouge is there again" in found.explanation


def test_what_the_control_learns_too_is_no_recovery() -> None:
    """ROUGE .6 against .5: an eighth of the gap; the retain reference relearned as much."""
    assert stressed(table(rouge=0.6), table(rouge=0.5)).name == "forgotten"


def test_forget_quality_under_stress_is_judged_against_the_control() -> None:
    """Told from its control while it knows more: recoverable. Beyond the control on the other side:
    the stress brought nothing back."""
    control = table(quality=1.0, probability=0.2, ratios=(0.6, 0.7, 0.8))
    back = table(quality=0.01, probability=0.25, ratios=(0.2, 0.3, 0.4))
    beyond = table(quality=0.01, probability=0.2, ratios=(1.2, 1.3, 1.4))
    assert "forget quality is 0.01" in stressed(back, control).explanation
    assert stressed(back, control).name == "recoverable"
    assert stressed(beyond, control).name == "forgotten"


def test_a_model_that_lost_its_fluency_is_collapsed() -> None:
    """.4 of .9 on the retain set, utility or not; silence on forget questions is no collapse."""
    target = table(quality=1e-9, utility=0.6, fluency=0.9)
    broken = judge(table(quality=0.4, utility=0.6, fluency=0.4), target, None, VerdictTable())
    assert (broken.name, broken.missed) == ("collapsed", ("fluency",))
    assert "retain.fluency fell to 0.400" in broken.explanation
    assert judge(
        table(quality=0.4, utility=0.6, fluency=0.8), target, None, VerdictTable()
    ).name == ("forgotten")


def muse(verbatim: float, knowledge: float, kept: float, leak: float | None) -> Table:
    values = {"forget_verbmem": verbatim, "forget_knowmem": knowledge, "retain_knowmem": kept}
    numbers = {f"{name}.rouge_f1": Number(value, "lower") for name, value in values.items()}
    return Table({}, numbers | {"privleak": Number(leak, "reference", reason=REASON)})


NEWS_TARGET, NEWS_REFERENCE = muse(0.584, 0.639, 0.552, -99.8), muse(0.208, 0.331, 0.55, 0.0)
"""As published for MUSE News."""


@pytest.mark.parametrize(
    ("after", "name", "missed", "says"),
    [
        # .2456 is .1 of .208 to .584; .3 is below the reference: less than none is left.
        (muse(0.24, 0.3, 0.53, 10.0), "forgotten", (), "It keeps 96% of the target's knowledge"),
        (muse(0.396, 0.3, 0.53, 0.0), "not forgotten", ("memorized",), "50% of the verbatim"),
        (muse(0.2, 0.639, 0.53, 0.0), "not forgotten", ("memorized",), "100% of the knowledge"),
        (muse(0.2, 0.3, 0.53, -60.0), "not forgotten", ("privleak",), "-60.0, below -25"),
        (muse(0.2, 0.3, 0.53, 109.0), "over-forgotten", ("privleak",), "109.0, above 25"),
        (muse(0.2, 0.3, 0.44, 0.0), "forgotten", ("utility",), "utility fell to 80%"),
        (muse(0.0, 0.0, 0.0, 0.0), "collapsed", ("utility",), "only 0%"),
        (muse(0.2, 0.3, 0.53, None), "unknown", (), "cannot be said"),
    ],
)
def test_muse_is_judged_by_its_three_criteria(
    after: Table, name: str, missed: tuple[str, ...], says: str
) -> None:
    """Memorisation down to that of the retrained model, membership that does not show on either
    side, and what is kept."""
    found = judge(after, NEWS_TARGET, NEWS_REFERENCE, VerdictTable())
    assert (found.name, found.missed) == (name, missed)
    assert says in found.explanation


def test_muse_without_knowledge_to_forget_is_unknown() -> None:
    """A target that remembers as little as the reference shows nothing."""
    found = judge(NEWS_REFERENCE, NEWS_REFERENCE, NEWS_REFERENCE, VerdictTable())
    assert found.name == "unknown"
    assert "cannot show that anything was forgotten" in found.explanation


def test_muse_under_a_stress_test_is_recoverable() -> None:
    """Relearning takes verbatim memorisation to .4, the reference under the same to .25: .15 of a
    gap of .376 is 40 %, above a quarter."""
    stressed = Stressed(muse(0.4, 0.3, 0.5, 0.0), muse(0.25, 0.3, 0.5, 0.0))
    after = muse(0.2, 0.3, 0.53, 0.0)
    found = judge(after, NEWS_TARGET, NEWS_REFERENCE, VerdictTable(), {"relearn": stressed})
    assert (found.name, found.missed) == ("recoverable", ("recovered",))
    assert "under relearn 40% of the lost forget_verbmem.rouge_f1" in found.explanation

"""The verdict: was it forgotten, and what did it cost?

Two-sided, and decided in this order:

collapsed       too little of the target's utility is left, or its answers to questions that are not
                to be forgotten lost their fluency; nothing else matters then
unknown         forget quality is null: nothing to compare with; or the target's own is above the
                threshold already: it did not know more than a model that never saw the forget set
recoverable     forget quality is above its threshold, and a stress test brings the knowledge back:
                under it forget quality is not, against the retain reference under the same test;
                or the probability of the forget answers, or the ROUGE of what is answered, is above
                that of the control by more than a set share of what lies between target and
                reference
forgotten       no stress test does so, or none was asked for. It stays `forgotten` where too much
                utility was lost; the explanation then says so, and `missed` names the threshold
over-forgotten  forget quality is not above its threshold, and the model lies beyond the retain
                reference: its median truth ratio is higher, or its answers are less than half as
                probable (a little less says nothing: the truth ratio is what was tested)
not forgotten   neither

Utility is model utility, or the probability of the retain answers where that is null, or the ROUGE
of what is answered about what is to be kept.

Where forget quality is not measured and MUSE is (Shi et al. 2024, arXiv:2407.06460, criteria C1 to
C3), its figures take the place of forget quality: forgotten where verbatim and knowledge
memorisation have lost all but a set share of what lies between target and retain reference, and
privacy leakage is within a set band around that of the reference; over-forgotten where it is above
that band.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import median

from unlearn_cli.api.evaluate import Table, about_forget
from unlearn_cli.spec.tables import VerdictName, VerdictTable

FAR_BELOW = 0.5
"""Share of the reference's probability below which answers are suppressed, not just unknown."""
MEMORIES = {
    "forget_verbmem.rouge_f1": "verbatim memorisation",
    "forget_knowmem.rouge_f1": "knowledge memorisation",
}
LEAKS = ("forget.probability", "forget.rouge", *MEMORIES)
LEAST_GAP = 0.05
"""Of a figure between target and reference, to speak of a share that comes back."""
UTILITIES = {
    "model_utility": "model utility",
    "retain.probability": "retain probability",
    "retain_knowmem.rouge_f1": "knowledge of what is kept",
}


@dataclass(frozen=True)
class Verdict:
    """The verdict and the numbers behind it."""

    name: VerdictName
    explanation: str
    """One or two plain sentences."""
    missed: tuple[str, ...] = ()
    """Thresholds of the spec's `[verdict]` that were not met; one that could not be judged is not
    among them."""


@dataclass(frozen=True)
class _Utility:
    label: str
    after: float
    target: float

    @property
    def kept(self) -> float:
        """Share of the target's utility; above 1 where the model gained some."""
        return self.after / self.target

    def __str__(self) -> str:
        return (
            f"{self.kept:.0%} of the target's {self.label} ({self.after:.3f} of {self.target:.3f})"
        )


@dataclass(frozen=True)
class Stressed:
    """What a stress test made of the unlearned model, and of the retain reference as control."""

    after: Table
    control: Table | None


def judge(
    after: Table | None,
    target: Table | None,
    reference: Table | None,
    thresholds: VerdictTable,
    stressed: Mapping[str, Stressed] | None = None,
) -> Verdict:
    """Judge an unlearned model; see the module's docstring for the rule.

    Args:
        after: evaluation of the unlearned model.
        target: evaluation of the model before unlearning, where there is one.
        reference: evaluation of the retain reference, where there is one.
        thresholds: the spec's `[verdict]`.
        stressed: by the name of the stress test.
    """
    if after is None:
        return Verdict("unknown", "Nothing was evaluated; add an `[[evaluate]]` to the spec.")
    utility = _utility(after, target)
    found = _by_quality(after, target, reference, thresholds) or _by_memory(
        after, target, reference, thresholds
    )
    cost = utility is not None and utility.kept < thresholds.utility
    missed = (*(found.missed if found else ()), *(["utility"] if cost else []))
    if utility and utility.kept < thresholds.collapsed:
        return Verdict("collapsed", f"The model is broken: only {utility} is left.", missed)
    if lost := _lost_fluency(after, target, thresholds.fluency):
        return Verdict("collapsed", f"The model is broken: {lost}.", (*missed, "fluency"))
    if found is None:
        return Verdict("unknown", _unknown(after, target, utility), missed)
    if found.name == "forgotten":
        said = found.said + _at_a_cost(utility, thresholds)
        if back := list(_recovered(target, reference, thresholds, stressed or {})):
            said = f"{said} But it comes back: {'; '.join(back)}."
            return Verdict("recoverable", said, (*missed, "recovered"))
        return Verdict("forgotten", said, missed)
    return Verdict(found.name, found.said, missed)


@dataclass(frozen=True)
class _Finding:
    """Whether it was forgotten, whatever it cost."""

    name: VerdictName
    said: str
    missed: tuple[str, ...] = ()


def _by_quality(
    after: Table, target: Table | None, reference: Table | None, thresholds: VerdictTable
) -> _Finding | None:
    """What forget quality says; None where it is null."""
    quality, before = _value(after, "forget_quality"), _value(target, "forget_quality")
    if quality is None:
        return None
    least = thresholds.forget_quality
    missed = () if quality > least else ("forget_quality",)
    if before is not None and before > least:
        return _Finding("unknown", _nothing_to_forget(before, thresholds), missed)
    if quality > least:
        said = (
            f"Forget quality is {quality:.2g}, above {least:g}: on the forget set the model cannot "
            "be told from one that never saw it"
        )
        return _Finding("forgotten", said)
    found = f"Forget quality is {quality:.2g}, not above {least:g}: the model"
    if beyond := _beyond(after, reference):
        return _Finding("over-forgotten", f"{found} went too far, {' and '.join(beyond)}.", missed)
    compared = _comparison(after, reference)
    return _Finding("not forgotten", f"{found} still knows the forget set{compared}.", missed)


def _by_memory(
    after: Table, target: Table | None, reference: Table | None, thresholds: VerdictTable
) -> _Finding | None:
    """What the measures of MUSE say; None where they are not there, or null."""
    leak = _value(after, "privleak")
    shares = {k: _regained(k, after, reference, target, reference) for k in MEMORIES}
    left = {name: share for name, share in shares.items() if share is not None}
    if leak is None or reference is None or not any(name in after.numbers for name in MEMORIES):
        return None
    if not left:
        said = (
            "Before unlearning, the target remembers no more of the forget set than the retain "
            "reference, so this run cannot show that anything was forgotten."
        )
        return _Finding("unknown", said)
    words = [f"{max(share, 0):.0%} of the {MEMORIES[name]} is left" for name, share in left.items()]
    said = f"Of what the retain reference does not know, {' and '.join(words)}"
    band = f"{thresholds.privleak:g}"
    known = [name for name, share in left.items() if share > thresholds.memorized]
    missed = (*(["memorized"] if known else []),)
    if known:
        return _Finding("not forgotten", f"{said}; {thresholds.memorized:.0%} may be.", missed)
    privacy = f"{said}, and privacy leakage is {leak:.1f}"
    if leak > thresholds.privleak:
        said = f"{privacy}, above {band}: the model went too far, and is seen to avoid the texts."
        return _Finding("over-forgotten", said, ("privleak",))
    if leak < -thresholds.privleak:
        said = f"{privacy}, below -{band}: the texts can still be told from such as it never saw."
        return _Finding("not forgotten", said, ("privleak",))
    return _Finding("forgotten", f"{privacy}, within {band} of the retain reference")


def _nothing_to_forget(quality: float, thresholds: VerdictTable) -> str:
    return (
        f"Before unlearning, forget quality is {quality:.2g}, above "
        f"{thresholds.forget_quality:g}: the target cannot be told from a model that never saw the "
        "forget set, so this run cannot show that anything was forgotten."
    )


def _value(table: Table | None, name: str) -> float | None:
    number = table.numbers.get(name) if table else None
    return number.value if number else None


def _utility(after: Table, target: Table | None) -> _Utility | None:
    """The first kind of utility that both models have; none where the target had none to lose."""
    for name, label in UTILITIES.items():
        now, before = _value(after, name), _value(target, name)
        if now is not None and before:
            return _Utility(label, now, before)
    return None


def _at_a_cost(utility: _Utility | None, thresholds: VerdictTable) -> str:
    """The end of the sentence that says that it was forgotten."""
    if utility is None:
        return ". What it cost is not known: there is no utility to compare."
    if utility.kept < thresholds.utility:
        return f", but utility fell to {utility}; {thresholds.utility:.0%} were to be kept."
    return f". It keeps {utility}."


def _unknown(after: Table, target: Table | None, utility: _Utility | None) -> str:
    number = after.numbers.get("forget_quality")
    reason = number.reason if number else "forget quality was not measured"
    said = [f"Whether it is forgotten cannot be said: {reason}."]
    now, before = _value(after, "forget.probability"), _value(target, "forget.probability")
    if now is not None:
        was = "" if before is None else f", before {before:.3f}"
        said.append(f"The mean probability of the forget answers is {now:.3f}{was}.")
    if utility:
        said.append(f"It keeps {utility}.")
    return " ".join(said)


def _lost_fluency(after: Table, target: Table | None, least: float) -> str:
    """The set whose answers lost most of their fluency, in words; empty where none lost enough."""
    kept = {
        name: (now, before)
        for name in after.numbers
        if name.endswith(".fluency") and not about_forget(name.partition(".")[0])
        if (now := _value(after, name)) is not None and (before := _value(target, name))
    }
    if not kept:
        return ""
    worst = min(kept, key=lambda name: kept[name][0] / kept[name][1])
    now, before = kept[worst]
    said = f"{worst} fell to {now:.3f}, from {before:.3f} of the target"
    return said if now < least * before else ""


def _recovered(
    target: Table | None,
    reference: Table | None,
    thresholds: VerdictTable,
    stressed: Mapping[str, Stressed],
) -> Iterator[str]:
    """For each stress test that brings the knowledge back, how it shows."""
    for test, under in stressed.items():
        control = under.control or reference
        quality = _value(under.after, "forget_quality")
        told = quality is not None and quality <= thresholds.forget_quality
        if told and not _beyond(under.after, control):
            yield f"under {test} forget quality is {quality:.2g}"
            continue
        for name in LEAKS:
            regained = _regained(name, under.after, control, target, reference)
            if regained is not None and regained > thresholds.recovered:
                yield f"under {test} {regained:.0%} of the lost {name} is there again"
                break


def _regained(
    name: str, under: Table, control: Table | None, target: Table | None, reference: Table | None
) -> float | None:
    """By which share of the gap between target and reference a stressed model lies above its
    control; None where there is no gap to speak of."""
    known = [_value(table, name) for table in (under, control, target, reference)]
    values = [value for value in known if value is not None]
    if len(values) < len(known) or values[2] - values[3] < LEAST_GAP:
        return None
    return (values[0] - values[1]) / (values[2] - values[3])


def _beyond(after: Table, reference: Table | None) -> list[str]:
    """In what the model lies beyond the reference, in words."""
    ratio, reference_ratio = _median_ratio(after), _median_ratio(reference)
    p, reference_p = (_value(table, "forget.probability") for table in (after, reference))
    found = []
    if ratio is not None and reference_ratio is not None and ratio > reference_ratio:
        found.append(
            "false answers look likelier to it than to one that never saw the forget set (median "
            f"truth ratio {ratio:.3g}, retain reference {reference_ratio:.3g})"
        )
    if p is not None and reference_p is not None and p < FAR_BELOW * reference_p:
        found.append(
            f"true answers less probable than to one that never saw them (mean {p:.3g}, "
            f"retain reference {reference_p:.3g})"
        )
    return found


def _comparison(after: Table, reference: Table | None) -> str:
    p, reference_p = (_value(table, "forget.probability") for table in (after, reference))
    if p is None or reference_p is None:
        return ""
    return f" (mean probability of its answers {p:.3f}, retain reference {reference_p:.3f})"


def _median_ratio(table: Table | None) -> float | None:
    rows = table.rows.get("forget", {}).get("truth_ratio", {}) if table else {}
    known = [value for value in rows.values() if value is not None]
    return median(known) if known else None

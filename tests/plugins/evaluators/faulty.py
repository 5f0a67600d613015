"""Evaluators with one fault each, in a module that is as light as a plugin's must be."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from unlearn_plugins.evaluators.qa import QA

from unlearn_cli.api import Bundle, Number, Probe, Row, Table


@dataclass(frozen=True)
class AsksTwice(QA):
    """Every row twice."""

    def probes(self, data: Bundle) -> list[Probe]:
        return [*super().probes(data)] * 2


@dataclass(frozen=True)
class AsksMore(QA):
    """A set without metrics."""

    def probes(self, data: Bundle) -> list[Probe]:
        return [*super().probes(data), Probe("more", data.forget[0])]


@dataclass(frozen=True)
class Measures:
    """A harness with a fault."""

    fault: str = ""
    """Which."""

    def measure(self, subject: Any) -> Table:
        weight = next(subject.model.parameters())
        if self.fault == "changes":
            weight.data += 1
        value = {"nan": float("nan"), "null": None}.get(self.fault, 1.0)
        number = Number(value, "higher" if self.fault != "direction" else "up")  # type: ignore[arg-type]
        return Table({"a": {"b": {"1": 1.0}}} if self.fault == "rows" else {}, {"a": number})


@dataclass(frozen=True)
class Idle:
    """A stress test without stress."""

    of: str = "qa"
    """What measures."""

    def change(self, subject: Any) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Swaps:
    """Asks another row."""

    of: str = "qa"
    """What measures."""

    def rewrite(self, probe: Probe) -> Probe:
        """The same row for all."""
        return replace(probe, row=Row.qa("other", "Who?", "Ann."))

"""What the catalog knows of a plugin without importing it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

Kind = Literal["method", "dataset", "evaluator", "metric"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Option:
    """One field of a plugin's dataclass."""

    name: str
    type: str
    """For people: `float > 0`, `"nll" | "kl"`."""
    annotation: str
    """As in the source, names of the module written out: `Annotated[float, Gt(0)]`."""
    required: bool
    default: Any = None
    """The value, where it is a literal; `default_text` where it is computed."""
    default_text: str = ""
    """The default as in the source; empty where the option is required."""
    help: str = ""
    """What the option means: the docstring under the field, or the comment behind it."""
    location: bool = False
    """Holds a path or hub id (`unlearn_cli.api.Location`)."""
    names: Kind | None = None
    """The kind of plugin that it names (`MetricName`, `EvaluatorName`)."""


@dataclass(frozen=True)
class Plugin:
    """One entry point, and what the source of its class says."""

    kind: Kind
    name: str
    target: str
    """`package.module:Class`."""
    distribution: str
    version: str
    file: Path | None = None
    """Where the class is defined; None where it was not found."""
    summary: str = ""
    """First paragraph of the docstring, as one line."""
    doc: str = ""
    """The whole docstring."""
    source: str = ""
    """What stands behind `Source:` in the docstring: the paper."""
    options: tuple[Option, ...] = ()
    closed: bool = True
    """`options` are all there are; False where a base class stands in another module."""
    requires: tuple[str, ...] = ()
    """Parameters of a method's `forget_loss`."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """A method's defaults of `gamma`, `alpha` and `retain`."""
    retains: tuple[str, ...] = ()
    """Retain terms that make sense with a method; empty for all."""
    own_alternates: bool = False
    """Whether a method needs alternates that were made for each question."""
    error: str = ""
    """Why the plugin cannot be used; empty where nothing is known to be wrong."""

    @property
    def qualified(self) -> str:
        """The name that no other distribution can claim: `npo@unlearn-extra`."""
        return f"{self.name}@{self.distribution}"

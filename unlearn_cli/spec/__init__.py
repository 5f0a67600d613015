"""The spec: one TOML file -> typed tables, with everything that is wrong reported at once."""

from unlearn_cli.spec.load import dump_spec, load_spec
from unlearn_cli.spec.tables import Spec

__all__ = ["Spec", "dump_spec", "load_spec"]

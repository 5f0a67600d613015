"""What is installed: methods, data sets, evaluators and metrics, from entry-point metadata.

Named things are entry points and nothing else, in the groups `unlearn.methods`,
`unlearn.datasets`, `unlearn.evaluators` and `unlearn.metrics`; the value is `package.module:Class`,
and the class stands in that very module. Listing reads metadata, and the summary, the options and
the source from the class by `ast`. Only `load` and `build` import a plugin.
"""

from unlearn_cli.catalog.check import OptionProblem, check_options
from unlearn_cli.catalog.model import KINDS, Kind, Option, Plugin
from unlearn_cli.catalog.registry import author, build, find, load, make, plugins

__all__ = [
    "KINDS",
    "Kind",
    "Option",
    "OptionProblem",
    "Plugin",
    "author",
    "build",
    "check_options",
    "find",
    "load",
    "make",
    "plugins",
]

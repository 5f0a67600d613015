"""Events and results on a terminal. The only package that imports rich.

Progress goes to stderr, results to stdout. Whatever a model, a data set or a plugin wrote passes
through `clean`, so that it cannot steer the terminal.
"""

from unlearn_cli.console.comparisons import print_comparison, print_meta
from unlearn_cli.console.progress import LiveListener, PlainListener, open_console
from unlearn_cli.console.results import print_plan, print_result, print_table, print_tokens

__all__ = [
    "LiveListener",
    "PlainListener",
    "open_console",
    "print_comparison",
    "print_meta",
    "print_plan",
    "print_result",
    "print_table",
    "print_tokens",
]

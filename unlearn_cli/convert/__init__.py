"""From a command line of open-unlearning to a spec: text to text, nothing is run or loaded.

command.py          words -> what launches, which script, which overrides
hydra.py            an override's text -> its value
open_unlearning.py  its experiments, trainers and models, and which key becomes which: tables
config.py           the configuration that its files and the overrides make together
several.py          several values of a key -> `unlearn sweep`
translate.py        that configuration -> a draft of a spec, and notes on what is left
draft.py            the draft -> TOML, checked as `unlearn check` would
"""

from unlearn_cli.convert.translate import Converted, convert

__all__ = ["Converted", "convert"]

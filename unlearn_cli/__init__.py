"""`unlearn`: make a language model forget chosen data, and prove what was done.

Importing this package imports nothing else, so that the command starts at once.
"""

__version__ = "0.1.0"

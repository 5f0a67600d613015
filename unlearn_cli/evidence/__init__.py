"""Evidence of a run: a statement with the hashes of all that decides it, signed on request.

What it proves, and what it does not, stands in `docs/evidence.md`. Imports no torch and loads no
model.
"""

"""Metrics: small functions from scored rows to values and one figure."""

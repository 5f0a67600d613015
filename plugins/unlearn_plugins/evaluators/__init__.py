"""Evaluators: which rows to score, and which metrics to take."""

"""Data sets: one file, one class."""

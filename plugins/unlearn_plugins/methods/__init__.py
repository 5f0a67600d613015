"""Unlearning methods: one file, one class, one paper."""

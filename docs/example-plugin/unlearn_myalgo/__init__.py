"""A method for `unlearn`."""

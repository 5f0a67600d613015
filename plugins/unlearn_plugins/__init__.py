"""The methods, data sets, evaluators and metrics that come with `unlearn`."""

"""The engine: accelerate inside; emits events and never prints."""

from unlearn_cli.environment import refuse_endpoint

refuse_endpoint()  # before the hub's library is imported, which would raise

"""The engine: accelerate inside; emits events and never prints."""

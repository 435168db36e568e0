"""The training engine, and all code that knows DeepSpeed."""

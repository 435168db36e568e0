"""The training engines, and all code that knows how they shard."""

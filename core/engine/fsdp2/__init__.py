"""The engine of PyTorch's FSDP2 (`fully_shard`), and all code that knows it."""

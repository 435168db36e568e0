"""The engine of DeepSpeed: ZeRO stages 0 to 3, and all code that knows DeepSpeed."""

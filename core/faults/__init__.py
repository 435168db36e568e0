"""Faults during training: detecting and handling them, and failpoints by which tests cause them."""

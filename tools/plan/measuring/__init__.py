"""Time micro-batches on the device at hand, fit what samples cost, choose groups that take the same time."""

"""How a worker computes the networks of its samples: with other ranks, or compiled."""

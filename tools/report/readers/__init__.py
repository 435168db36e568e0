"""Read one kind of folder each: what it holds, and what of it is missing or damaged."""

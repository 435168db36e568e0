"""A job on a cluster: submitting it, what watches over it there, and what can be asked about it."""

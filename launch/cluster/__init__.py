"""Jobs on a cluster: submission, supervision there, and queries about them."""

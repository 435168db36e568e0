"""Sources of latents for training: one file a kind, and the protocol that all of them implement."""

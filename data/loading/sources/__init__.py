"""Where training gets latents from: one file a kind, and what all of them answer."""

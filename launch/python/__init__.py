"""What `import longtake` offers: jobs, runs and caches as Python objects."""

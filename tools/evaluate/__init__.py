"""The job `evaluate`: scores of samples against real data."""

"""The job `inspect`: what a dataset, run, checkpoint or export holds."""

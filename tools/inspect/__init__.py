"""The job `inspect`: the contents of a dataset, run, checkpoint or export."""

"""The job `demo`, its stages and its report."""

"""The job `sample`: images or clips from a run or an export."""

"""The job `convert`: weights in the layouts of other projects, into this one's exports and back."""

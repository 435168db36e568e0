"""Tables that name files: their rows, the files these mean, and tables that name none."""

"""The job `report`: one self-contained HTML page about runs, datasets, samples and scores.

`readers/` has a file for each kind of folder, `sections/` one for each part of the page.
"""

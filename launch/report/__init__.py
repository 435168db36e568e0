"""The job `report`: that of `tools/report`, and for the folder of a demo the page of the demo."""

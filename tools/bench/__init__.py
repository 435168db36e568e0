"""Measurements of the data plane beside the limit of the machine and beside other libraries."""

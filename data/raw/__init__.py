"""From files, tables and tars to a raw dataset."""

"""Tables that name media: each format is read into rows of named fields."""

"""What others wrote, read as far as it fits: JSON by a schema, arrays by their form."""

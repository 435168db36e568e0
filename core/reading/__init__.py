"""Reading foreign data as far as it fits what is expected: JSON by a schema, arrays by their form."""

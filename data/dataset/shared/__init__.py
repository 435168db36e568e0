"""What processes of one machine share of a dataset with very many shards: its manifest, as mapped columns."""

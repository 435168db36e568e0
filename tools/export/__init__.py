"""The weights of a run as plain files that other programs read, with a card that says what they are."""

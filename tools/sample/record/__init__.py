"""What a sampling job was begun with: its record, and how it is held to it."""

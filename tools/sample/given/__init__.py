"""Pictures and clips that samples are made from: reading, checking, encoding, and conditioning."""

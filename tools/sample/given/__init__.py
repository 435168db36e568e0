"""Pictures and clips that samples are made from: read and checked, encoded, and how the run keeps to them."""

"""Labels in pictures: their letters, and the fonts of this machine that have them."""

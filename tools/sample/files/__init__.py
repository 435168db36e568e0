"""The files of single samples: kinds, names, and the folder that holds them while they are made."""

"""Linear layers that multiply in 8 bits: kinds in files of their own, put in by `kinds`."""

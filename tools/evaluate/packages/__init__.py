"""Results that other packages have measured of samples made here."""

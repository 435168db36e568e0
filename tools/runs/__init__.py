"""A finished run or its samples as several jobs open them, and encoders on a device."""

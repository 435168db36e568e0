"""What several jobs share: a finished run or its samples as they open them, and encoders on a device."""

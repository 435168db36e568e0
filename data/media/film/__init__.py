"""Facts that a video file declares: which stream is the film, how and when frames are shown, their fields."""

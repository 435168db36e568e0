"""What a video file says of itself: which stream is the film, how it is shown, when, and of which fields."""

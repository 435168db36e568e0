"""Self-contained HTML pages: frame, look, and charts as inline SVG, into which jobs write sections."""

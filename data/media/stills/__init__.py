"""Pictures and animated pictures: opening them, the colours they declare, and their pixels as sRGB."""

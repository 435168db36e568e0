"""Pictures and animated pictures: opening, what they say of their colours, and their pixels as sRGB."""

"""Input photos: listing, reading, decoding, and rendering synthetic fruit."""

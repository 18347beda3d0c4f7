"""What comes in: listing photos, decoding them, and making photos of made-up fruit."""

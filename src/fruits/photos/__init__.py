"""What comes in: listing photos, decoding and measuring them, and making photos of made-up fruit."""

"""The recognition service: a person sends a photo and learns what the fruit is. Knows the bundle, never the pipeline."""

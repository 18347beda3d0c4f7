"""The catalogue of photos: listing, manifests, labels, splits and groups."""

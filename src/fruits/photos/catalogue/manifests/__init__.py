"""Tables that name photos: manifests, and Delta tables with the same columns."""

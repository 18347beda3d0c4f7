"""Recognition inside the service: the open bundle and the workers around it."""

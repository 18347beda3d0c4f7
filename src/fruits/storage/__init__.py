"""Storage: objects on disk and in buckets, table schemas, and embedding parts with atomic commits."""

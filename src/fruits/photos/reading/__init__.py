"""Reading the bytes of photos by uri: from disk, buckets and packs."""

"""The bytes of photos by uri: disk, bucket, pack."""

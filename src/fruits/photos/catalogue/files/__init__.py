"""Photos that are files or objects of their own: folders, prefixes of buckets, inventories of S3."""

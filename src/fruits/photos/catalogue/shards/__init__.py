"""Photos in files that hold many: tar archives and Parquet tables."""

"""The Spark engine: session, jobs, and the tasks run by its Python workers."""

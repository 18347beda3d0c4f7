"""The Spark engine: its session, its jobs, the tasks that its workers run."""

"""Jobs on the cluster: what Spark is given to run, how a job is prepared, started and followed."""

"""Commands of an installation on AWS, of jobs on its cluster, and of the service's owner."""

"""The stacks of an installation: templates and parameters, quotas, bucket policies, deployment."""

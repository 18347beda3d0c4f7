"""The same job and the service on AWS: templates, packages, runs, costs."""

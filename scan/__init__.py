"""The templates and Dockerfiles under our own rules, cfn-lint, checkov and hadolint, with every exception and its reason."""

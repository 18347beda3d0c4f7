"""What does fruits cost beside what a user would pick instead? Ratios measured in one run; docs/benchmarks.md has the figures."""

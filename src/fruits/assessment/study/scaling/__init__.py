"""``fruits study scaling``: timed trials, the law fitted to them, a simulation of the job, and its projection to rented ones."""

"""What AWS costs: prices, throughput, estimates for runs, storage and an installation without use."""

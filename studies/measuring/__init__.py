"""What studies measure of trajectories."""

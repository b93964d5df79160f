"""What this machine has and lacks for training."""

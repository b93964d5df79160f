"""What is learnt: a loss for each kind of training."""

"""What every family stands on: blocks, weights, generation, training and data. Uses nothing of the families."""

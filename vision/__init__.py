"""Models that see, and what trains and runs them."""

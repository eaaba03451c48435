"""What trains a learner, whatever its method: `run` (what it works with), `fit` (the loop)."""

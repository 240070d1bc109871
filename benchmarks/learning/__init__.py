"""Does retraining help? The loop from drift to signed model, in simulated time, beside plainer policies."""

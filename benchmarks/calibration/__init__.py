"""Personal baselines on held-out wearers, beside the population alone and the wearer alone."""

"""How many retrains a drift watch asks for in vain, and how many drifts it finds, beside other rules."""

"""The recipe of the wearables' factory model and fault bank, and what their demo shows."""

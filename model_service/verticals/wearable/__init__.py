"""Wearables in the cloud: rhythm from a raw window, the model that scores it, and the population's prior."""

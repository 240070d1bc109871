"""Rhythm from a raw window: beats, what is told from them, and the model that scores them."""

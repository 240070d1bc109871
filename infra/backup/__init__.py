"""Copies of a whole state folder at one moment, and the way back from them."""

"""The recipe of the factory model of intersections and of their fault bank."""

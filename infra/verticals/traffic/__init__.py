"""The recipe of the factory model of intersections; not shipped before the profile is."""

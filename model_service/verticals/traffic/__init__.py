"""Plans of a group of intersections: computed from measured flows, and judged by our own queue model."""

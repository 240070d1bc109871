"""Signal-controlled intersections: their phases and bounds, plans, and the choice of the next phase. Pure."""

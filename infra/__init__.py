"""What runs the parts together: the edgeloop CLI, the local stack, the demo."""

"""What a vertical adds to the stack on one machine: the story of its demo."""

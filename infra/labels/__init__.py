"""Labels from people: read from files, numbered, signed and sent."""

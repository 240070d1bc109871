"""Child processes that end with their owner, and the ports that they listen on."""

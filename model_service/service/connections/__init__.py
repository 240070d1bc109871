"""The TCP side of the public process: what it accepts, which connections it keeps, and how bytes reach gRPC."""

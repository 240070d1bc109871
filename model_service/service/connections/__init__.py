"""The TCP side of the public process: which connections it keeps, and how their bytes reach gRPC."""

"""Who may call the model service: certificate authority, join tokens, certificates for devices and people.

The public process stores requests (`certificate_requests`) in the registry, and the engine answers them
(`issuer`): only the engine reads the authority's key.
"""

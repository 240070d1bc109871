"""Who may talk to the model service: certificate authority, join tokens, certificates for devices and people.

The public process takes requests (`enrolment`), the engine answers them (`issuer`): only the engine reads the
authority's key. They meet in the registry's table ``certificate_requests``.
"""

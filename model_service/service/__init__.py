"""The public gRPC process: enrolment over server TLS; delivery and administration over mutual TLS.

It holds no signing key: no TUF key, no authority's key. `door` is the room's one way to gRPC's calls,
`server` its listeners; what stands behind them are plain classes that take messages and return messages.
"""

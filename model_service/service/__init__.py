"""The public gRPC process: enrolment over server TLS; delivery and administration over mutual TLS.

It holds no signing key, neither of TUF nor of the certificate authority. `door` and `server` are the only
modules that use gRPC; behind them are plain classes that take messages and return messages.
"""

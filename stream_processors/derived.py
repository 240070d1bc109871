"""Name that `stream_processors.derived_provenance` had in 0.2.0: jobs written for it import from here."""

from stream_processors.derived_provenance import derived_provenance

__all__ = ["derived_provenance"]

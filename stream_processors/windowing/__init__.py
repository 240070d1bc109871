"""Event-time windows that the jobs `aggregate` and `drift` share: moments, watermarks, partials."""

"""Readers of published file formats: bytes on disk -> `Examples`. Nothing here knows a task or a cache."""

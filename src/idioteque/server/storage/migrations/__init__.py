"""The server's schema, one file a change."""

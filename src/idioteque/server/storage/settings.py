"""Named texts that the server keeps: its signing keys, and the digest of its token."""

from __future__ import annotations

from collections.abc import Mapping

from idioteque.database import Transaction


def load_settings(tx: Transaction) -> dict[str, str]:
    """Return all settings."""
    # There are half a dozen.
    return dict(tx.execute("SELECT name, value FROM settings"))


def save_settings(tx: Transaction, settings: Mapping[str, str]) -> None:
    """Store settings over those of the same names."""
    tx.execute_many(
        """INSERT INTO settings (name, value) VALUES (:name, :value)
        ON CONFLICT (name) DO UPDATE SET value = excluded.value""",
        [{"name": name, "value": value} for name, value in settings.items()],
    )

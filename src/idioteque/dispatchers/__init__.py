"""What carries messages: QStash for production, this process for tests, plain HTTP for development."""

from __future__ import annotations

from idioteque.dispatchers.local import DeadLetter, HttpDispatcher, InlineDispatcher
from idioteque.dispatchers.qstash import QStashDispatcher

__all__ = ["DeadLetter", "HttpDispatcher", "InlineDispatcher", "QStashDispatcher"]

"""The console: web pages over the public API of a QStash and over a store of runs."""

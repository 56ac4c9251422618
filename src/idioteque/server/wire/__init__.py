"""The QStash protocol, pure: headers and targets in, records out; records in, JSON out. Its odd words stay here."""

"""Frameworks stop here: each file turns one framework's request into an `HttpRequest`, and the response back."""

"""HTTP as it comes in: framing, limits and the order of replies, below the API and above the sockets."""

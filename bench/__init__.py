"""`make bench`: the same work for this project and its peers, side by side on one machine; see docs/performance.md."""

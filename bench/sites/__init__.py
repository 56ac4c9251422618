"""Who does the work: this project, and each peer; all behind the one class `Site`."""

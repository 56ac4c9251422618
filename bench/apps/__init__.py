"""What runs inside the peers' own environments; nothing here may import the project."""

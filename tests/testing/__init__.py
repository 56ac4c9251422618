"""What users are given for their own tests."""

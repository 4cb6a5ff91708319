"""What pytest collects of the suite."""

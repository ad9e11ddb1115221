"""What happens to a version after it was published, and the log of everything that happened."""

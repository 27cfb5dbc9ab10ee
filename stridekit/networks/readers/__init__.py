"""What other people wrote, read into layers."""

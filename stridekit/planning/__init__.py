"""Who computes a problem, in which pieces, in how much memory: decided from integers, with the reasons."""

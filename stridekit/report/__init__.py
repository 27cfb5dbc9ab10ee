"""What the command prints: comparisons, networks and windows, in the terminal. It only shows what others measured."""

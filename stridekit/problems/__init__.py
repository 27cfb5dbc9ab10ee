"""What is computed, in integers: sizes, padding, phases of a stride. No array, no backend."""

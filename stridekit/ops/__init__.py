"""What people call: arrays in, an array out. Each reads its arguments, makes a problem, and asks for a plan."""

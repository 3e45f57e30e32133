"""Short trainings that answer a question before a long one: time, memory, and whether it pays."""

"""What stands on the shelves: adapters as people see them, the vocabulary of tasks and languages, and counters of both."""

"""What the commands do, one file a command; `cli` reads their arguments."""

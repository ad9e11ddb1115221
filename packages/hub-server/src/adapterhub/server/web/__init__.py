"""The pages: server-rendered HTML that works without scripts and loads nothing from other hosts."""

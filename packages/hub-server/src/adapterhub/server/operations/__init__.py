"""Running a hub: health, metrics, logs, backups, checks, static export."""

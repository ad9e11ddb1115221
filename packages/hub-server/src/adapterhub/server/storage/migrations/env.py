"""Alembic runs inside the transaction that storage.migrate began."""

from alembic import context

from adapterhub.server.storage.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
    render_as_batch=True,
)
context.run_migrations()

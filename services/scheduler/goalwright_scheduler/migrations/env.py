"""Alembic's environment: always runs on the connection that `migrations.migrate` passes."""

from __future__ import annotations

from alembic import context

from goalwright_scheduler.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()

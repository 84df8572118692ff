"""Alembic's environment, as CKAN calls it for the tables of a plugin."""

from __future__ import annotations

import os

from alembic import context
from ckan.model.meta import metadata
from sqlalchemy import engine_from_config, pool

name = os.path.basename(os.path.dirname(__file__))


def include_object(object_, object_name, type_, reflected, compare_to) -> bool:
    """Leave the tables of CKAN and of other plugins alone."""
    return type_ != "table" or object_name.startswith(name)


options = {
    "target_metadata": metadata,
    "version_table": f"{name}_alembic_version",
    "include_object": include_object,
}

if context.is_offline_mode():
    context.configure(
        url=context.config.get_main_option("sqlalchemy.url"), literal_binds=True, **options
    )
    with context.begin_transaction():
        context.run_migrations()
else:
    connectable = engine_from_config(
        context.config.get_section(context.config.config_ini_section),
        prefix="sqlalchemy.",
        poolclass=pool.NullPool,
    )
    with connectable.connect() as connection:
        context.configure(connection=connection, **options)
        with context.begin_transaction():
            context.run_migrations()

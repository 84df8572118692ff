"""``ckan webhooks …``: for who runs the portal.

What actions do is asked of the actions, so that it is checked and said as it
is everywhere. Exit codes: 0 it went well, 1 what was asked for failed, 2 the
command was not understood.
"""

from __future__ import annotations

import click

from . import deliveries, listen, quarantine, registry, work


def get_commands() -> list[click.Command]:
    return [webhooks]


@click.group(short_help="Signed webhooks for dataset and resource changes.")
def webhooks() -> None:
    """Signed webhooks for dataset and resource changes."""


for _command in (
    *registry.COMMANDS,
    *deliveries.COMMANDS,
    quarantine.quarantine,
    *work.COMMANDS,
    listen.listen,
):
    webhooks.add_command(_command)

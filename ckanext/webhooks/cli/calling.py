"""The ``webhook_*`` actions, called by who has the command line."""

from __future__ import annotations

from typing import IO, Any

import ckan.plugins.toolkit as tk
import click
from ckan import model

from ..model import missing_tables
from ..model.base import HOW_TO_MIGRATE


class Refused(click.ClickException):
    """What an action refused: for each field, why."""

    def __init__(self, reasons: dict[str, Any]) -> None:
        super().__init__("\n".join(_lines(reasons)))

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(self.format_message(), file=file, err=file is None)


def call(action: str, caller: str | None = None, /, **data: Any) -> Any:
    """Call an action as CKAN's own user, who is a sysadmin, or as somebody else.

    :param caller: name or id of a user
    :param data: what the action takes; what is None was not given
    :raises Refused: the action refuses
    """
    context = {"user": site_user() if caller is None else _active(caller)}
    try:
        given = {name: value for name, value in data.items() if value is not None}
        return tk.get_action(action)(context, given)
    except tk.ValidationError as error:
        raise Refused(error.error_dict) from None
    except tk.ObjectNotFound as error:
        raise Refused({"id": [str(error)]}) from None
    except tk.NotAuthorized as error:
        raise Refused({"user": [str(error)]}) from None


def require_tables() -> None:
    """:raises click.ClickException: a migration is still to be run"""
    if missing_tables():
        raise click.ClickException(
            f"The tables of the webhooks plugin are missing: {HOW_TO_MIGRATE}"
        )


def site_user() -> str:
    """Give the name of CKAN's own user, who is made where there is none."""
    return str(tk.get_action("get_site_user")({"ignore_auth": True}, {})["name"])


def _active(caller: str) -> str:
    user = model.User.get(caller)
    if user is None or user.state != model.State.ACTIVE:
        raise Refused({"user": [f"There is no active user {caller}"]})
    return str(user.name)


def _lines(reasons: dict[str, Any]) -> list[str]:
    return [
        f"{field}: {reason}"
        for field, given in reasons.items()
        for reason in (given if isinstance(given, list) else [given])
    ]

"""What the shell offers when a word is half typed."""

from __future__ import annotations

from typing import Any

import click
from ckan import model
from click import Context, Parameter
from click.shell_completion import CompletionItem
from sqlalchemy.exc import SQLAlchemyError

from .. import quarantine
from ..model import Webhook

# More than this, nobody reads through.
_MOST = 50


def webhook_ids(context: Context, parameter: Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the ids that begin so; zsh and fish show whom each calls."""
    try:
        rows = _rows(incomplete)
    except SQLAlchemyError:  # a line that is being typed is no place to say so
        return []
    return [CompletionItem(row.id, help=row.address) for row in rows]


def _rows(incomplete: str) -> list[Any]:
    query = model.Session.query(Webhook.id, Webhook.address)
    query = query.filter(Webhook.id.startswith(incomplete, autoescape=True))
    return list(query.order_by(Webhook.id).limit(_MOST))


def quarantine_ids(context: Context, parameter: Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the numbers that begin so of what is put aside; zsh and fish show what each is."""
    try:
        found = quarantine.waiting(model.Session.connection())
    except SQLAlchemyError:
        return []
    return [
        CompletionItem(str(row.id), help=f"{row.kind} {row.key}")
        for row in found
        if str(row.id).startswith(incomplete)
    ][:_MOST]


webhook_argument = click.argument("webhook_id", metavar="ID", shell_complete=webhook_ids)

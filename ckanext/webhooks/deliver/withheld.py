"""What an endpoint sends back of the custom headers it was sent is not kept.

They may be credentials, and are shown to nobody once they are stored; but
an endpoint may print the request it got into its answer, as debugging pages
do, and answers are kept and shown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from .attempt import Outcome

WITHHELD = "[withheld]"
# What is shorter is no credential, and stands in many answers by chance.
SHORTEST = 6


def confidential(headers: Mapping[str, str]) -> list[str]:
    """Give the values of custom headers, and of ``Bearer x`` also what is the credential."""
    if not headers:
        return []
    found = {part for value in headers.values() for part in (value, value.partition(" ")[2])}
    # The longest first: another may be a part of it.
    return sorted((v for v in found if len(v) >= SHORTEST), key=len, reverse=True)


def withhold(outcome: Outcome, values: Sequence[str]) -> Outcome:
    """Give an outcome without these values, also where the end of one was cut off."""
    if not values or not (outcome.answer or outcome.error):
        return outcome
    answer, error = outcome.answer, outcome.error
    for value in values:
        for spelt in {value, json.dumps(value)[1:-1]}:
            # JSON can hold a lone surrogate, so a header that was not sent for it may, too.
            answer = _without(answer, spelt.encode("utf-8", "surrogatepass"))
            error = error and error.replace(spelt, WITHHELD)
    return outcome._replace(answer=answer, error=error)


def _without(answer: bytes, value: bytes) -> bytes:
    answer = answer.replace(value, WITHHELD.encode())
    for length in range(len(value) - 1, SHORTEST - 1, -1):
        if answer.endswith(value[:length]):
            return answer[:-length] + WITHHELD.encode()
    return answer

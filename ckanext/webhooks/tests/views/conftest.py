"""Who looks at pages."""

from __future__ import annotations

from typing import Any

import pytest
from ckan.tests import factories

from ..visitor import Visitor


@pytest.fixture
def owner(visit: Any, user: dict[str, Any]) -> Visitor:
    """The owner of what a test registers, at a browser."""
    return visit(user)


@pytest.fixture
def sysadmin(visit: Any) -> Visitor:
    return visit(factories.Sysadmin())

"""What a save may lose here: all of capture runs in a savepoint, within these limits.

Statements that belong together go in one message, the savepoint's too: each message
costs a save 0.3 to 0.6 ms.
"""

from __future__ import annotations

# A save must not wait for this extension: DESIGN promises these bounds.
LOCK_TIMEOUT = "200ms"
STATEMENT_TIMEOUT = "500ms"
# Settings outlive the release of a savepoint, though not its rollback, so the usual ones
# are kept to be put back.
BEGIN = f"""
    SAVEPOINT webhooks;
    SELECT set_config('webhooks.lock_timeout', current_setting('lock_timeout'), true),
           set_config('webhooks.statement_timeout', current_setting('statement_timeout'), true);
    SET LOCAL lock_timeout = '{LOCK_TIMEOUT}';
    SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT}';
"""
END = """
    SELECT set_config('lock_timeout', current_setting('webhooks.lock_timeout'), true),
           set_config('statement_timeout', current_setting('webhooks.statement_timeout'), true);
    RELEASE SAVEPOINT webhooks
"""
UNDO = "ROLLBACK TO SAVEPOINT webhooks; RELEASE SAVEPOINT webhooks"

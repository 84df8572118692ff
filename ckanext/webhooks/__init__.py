"""Signed webhooks for every dataset and resource change of a CKAN portal.

The way of one event, seven stops:

1. a dataset is changed (``package_create``, a form, a script on the model);
2. :mod:`capture` collects what was touched, as CKAN flushes it;
3. and writes the event row in that very transaction;
4. CKAN commits; :mod:`queue` nudges a worker;
5. :mod:`dispatch` compares, numbers the event and writes one delivery for
   each webhook whose owner may be told;
6. :mod:`deliver` claims what is due, builds and signs it with no transaction
   open, and POSTs it;
7. the answer is settled: delivered, tried again later, or failed.

:mod:`sweep` finds what was lost on the way, and drops what is old.

The layers, each of which imports only from those below it (import-linter
holds this; the contract is in setup.cfg)::

    plugin
    cli, views
    helpers
    logic, worker, doctor
    tasks
    capture, dispatch, deliver, sweep      the stages never import each other
    owners
    queue
    model
    topics, config, visibility, difference
    encryption, version
"""

"""Times at the ends of what Python and PostgreSQL can say, and beyond."""

FIRST_TIMES = ("0001-01-01", "0001-01-01T00:00:00+14:00")
LAST_TIMES = ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59-12:00")
NO_YEARS = ("0000-01-01", "-0001-01-01", "10000-01-01", "99999-12-31T23:59:59Z")

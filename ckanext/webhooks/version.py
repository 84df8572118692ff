"""The version, alone in a file so that the build can read it without importing CKAN."""

__version__ = "1.0.0.dev0"

"""Everything but the message extractors, which setup.cfg cannot hold, is in setup.cfg."""

from setuptools import setup

setup(
    message_extractors={
        "ckanext": [
            ("**/tests/**", "ignore", None),
            ("**.py", "python", None),
            ("**.js", "javascript", None),
            # By its place: by its name, babel of CKAN 2.10 and 2.11 finds it by pkg_resources alone.
            ("**/templates/**.html", "ckan.lib.extract:extract_ckan", None),
        ],
    },
)

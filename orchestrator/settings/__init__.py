"""The configuration: a TOML file; ``ORCHESTRATOR__...`` variables override single values.

``sections`` has the models, ``loading`` reads file and variables, ``placeholders`` finds values
that were never filled in, ``advice`` checks what no single setting shows, and ``proxy_routes``
lists the proxies in use. A mistake is reported under the name that the user wrote, all mistakes at
once, and no message repeats a value, because it may be a secret.
"""

from orchestrator.settings.advice import Advice, advise
from orchestrator.settings.loading import config_path, load
from orchestrator.settings.proxy_routes import routes
from orchestrator.settings.sections import Account, Quotas, Settings

__all__ = [
    "Account",
    "Advice",
    "Quotas",
    "Settings",
    "advise",
    "config_path",
    "load",
    "routes",
]

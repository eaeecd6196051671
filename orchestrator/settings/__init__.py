"""The configuration: a TOML file, each value overridable by ``ORCHESTRATOR__...`` variables."""

from orchestrator.settings.advice import Advice, advise
from orchestrator.settings.loading import config_path, load
from orchestrator.settings.routes import routes
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

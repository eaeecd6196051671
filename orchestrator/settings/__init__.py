"""The configuration: a TOML file, each value overridable by ``ORCHESTRATOR__...`` variables."""

from orchestrator.settings.loading import load
from orchestrator.settings.routes import routes
from orchestrator.settings.sections import Account, Quotas, Settings

__all__ = ["Account", "Quotas", "Settings", "load", "routes"]

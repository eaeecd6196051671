"""The configuration: a TOML file, each value overridable by ``ORCHESTRATOR__...`` variables."""

from orchestrator.settings.loading import config_path, load
from orchestrator.settings.routes import routes
from orchestrator.settings.sections import Account, Quotas, Settings
from orchestrator.settings.warnings import warnings

__all__ = ["Account", "Quotas", "Settings", "config_path", "load", "routes", "warnings"]

"""The configuration: a TOML file, each value overridable by ``ORCHESTRATOR__...`` variables."""

from orchestrator.settings.advice import Advice, advise
from orchestrator.settings.loading import load
from orchestrator.settings.sections import Account, Quotas, Settings

__all__ = ["Account", "Advice", "Quotas", "Settings", "advise", "load"]

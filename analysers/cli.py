"""The commands under the name by which installed scripts know them."""

from analysers.commands.main import analyse_epochs, analyse_strength

__all__ = ["analyse_epochs", "analyse_strength"]

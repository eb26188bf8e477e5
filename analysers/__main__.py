"""`python -m analysers`: both commands, where their scripts are not on the path."""

from __future__ import annotations

import click

from analysers.commands.main import analyse_epochs, analyse_strength


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="lora-analysers")
def main() -> None:
    """Which checkpoint of a LoRA, at which strength?

    \b
    python -m analysers strength --demo     is  analyse-strength --demo
    python -m analysers epochs --demo       is  analyse-epochs --demo
    """


main.add_command(analyse_strength, "strength")
main.add_command(analyse_epochs, "epochs")

if __name__ == "__main__":
    main(prog_name="python -m analysers")

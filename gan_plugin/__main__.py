"""Run the command line: ``python -m gan_plugin``."""

from gan_plugin.cli import main

main()

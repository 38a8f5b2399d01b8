"""`python -m halfpint`."""

from halfpint.cli import main

main()

"""`luna plugins`."""

import click

from .options import command


@command()
@click.pass_obj
def plugins(app):
    """x."""
    print(app.plugins().names)

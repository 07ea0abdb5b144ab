"""``lima2 keys``: keys of a detector's daemons and of those that may connect to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
import typer

from ..config import Config, load_config
from ..daemons import BAD_START
from ..errors import ConfigError, ReceiverError
from ..security.keys import OPERATOR, SECRET, add_client, check_folder, make_keys, read_authorized
from ..security.keys import revoke as take_away
from ..security.roles import Role

T = TypeVar("T")

app = typer.Typer(
    help="""Make, list and revoke the keys that `tcp` endpoints need.

    The folder is `security.keys` of the configuration. First, once:

        lima2 keys init CONFIG

    then for each person or program that connects from another host:

        lima2 keys add CONFIG alice --role control

    Run it as the user that the daemons run as, on the conductor's host. docs/how-to/use-two-hosts.md has the whole way,
    docs/explanations/security.md what keys protect from.""",
    no_args_is_help=True,
)
ConfigPath = Annotated[Path, typer.Argument(help="The detector's configuration file (TOML).", metavar="CONFIG")]
Name = Annotated[str, typer.Argument(help="Of a person or program: letters, digits, '_', '-' and '.'.", metavar="NAME")]


class Listed(msgspec.Struct, frozen=True):
    """One line of ``lima2 keys list``."""

    name: str
    role: Role
    created: str
    public_key: str


@app.command()
def init(config: ConfigPath) -> None:
    """Make the keys of conductor, receivers and operator, as far as they are missing.

    The operator's key is that of `lima2 state CONFIG` and `lima2 stop CONFIG` on this host. A receiver on another host
    needs its own private key, the conductor's public key and the conductor's entry in `authorized/` there.
    """
    settings = _load(config)
    folder = _folder(settings)
    made = _run(lambda: make_keys(folder, len(settings.receivers)))
    typer.echo(f"{folder}: {', '.join(made)}" if made else f"{folder}: all keys are there already")


@app.command()
def add(
    config: ConfigPath,
    name: Name,
    role: Annotated[
        str, typer.Option(help="observe: may look; control: may also prepare, start, trigger and stop acquisitions.")
    ],
) -> None:
    """Make a key for a client and let it in. The daemons need no restart.

    It prints the folder to carry to the client's host, over a way that nobody listens on, and how to use it there.
    """
    if role not in (Role.OBSERVE, Role.CONTROL):
        raise typer.BadParameter(f"got {role!r}, expected observe or control", param_hint="--role")
    settings = _load(config)
    place = _run(lambda: add_client(_folder(settings), name, Role(role)))
    conductor = settings.conductor
    typer.echo(
        f"""{name} may connect now, role {role}. Carry this folder to its host, and remove it here:

  {place}

There, only {name} may read it (chmod 700 FOLDER; chmod 600 FOLDER/{name}{SECRET}). Then

  lima2 state CONFIG --key FOLDER/{name}{SECRET}

with the same configuration, or in Python

  Lima2Detector("{conductor.commands}", "{conductor.state}", ..., key="FOLDER/{name}{SECRET}")"""
    )


@app.command("list")
def show(
    config: ConfigPath, json: Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")] = False
) -> None:
    """List who may connect, and what each may do."""
    folder = _folder(_load(config))
    _run(lambda: check_folder(folder))
    entries, wrong = _run(lambda: read_authorized(folder))
    found = [Listed(name, entry.role, entry.created.isoformat(), entry.public_key) for name, entry in entries.items()]
    for text in wrong:
        typer.echo(f"warning: authorizes nobody: {text}", err=True)
    if json:
        typer.echo(msgspec.json.encode(found).decode())
        return
    for one in found:
        typer.echo(f"{one.name}: {one.role}, since {one.created}, {one.public_key}")


@app.command()
def revoke(config: ConfigPath, name: Name) -> None:
    """Let a client in no more. The daemons need no restart.

    Within 2 s they refuse what it asks and publish nothing to it, also where it is connected already.

    A receiver on another host has a list of its own, with the conductor alone. To replace the conductor's or the
    operator's key, revoke it, remove NAME.key and NAME.key_secret, and use `init` again.
    """
    folder = _folder(_load(config))
    _run(lambda: take_away(folder, name))
    typer.echo(f"{name} may connect no more")


def operator_key(config: Config, key: Path | None) -> Path | None:
    """Return the file of the private key that a command of this host connects with.

    :param key: given on the command line; None: the operator's, where the configuration has keys.
    """
    if key is not None or not config.security.keys:
        return key
    return Path(config.security.keys) / (OPERATOR + SECRET)


def _load(config: Path) -> Config:
    return _run(lambda: load_config(config))


def _folder(config: Config) -> Path:
    def find() -> Path:
        if not config.security.keys:
            raise ConfigError('security.keys: got none, expected a folder, such as keys = "/etc/lima2/keys"')
        return Path(config.security.keys)

    return _run(find)


def _run(work: Callable[[], T]) -> T:
    try:
        return work()
    except ReceiverError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(BAD_START) from error

"""Where the store may be: what the setting means, and which file systems SQLite can trust.

Importing this imports no SQLAlchemy, and reading the setting does so for PostgreSQL alone.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PureWindowsPath
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote

import psutil

from jupyter_comfy_lock.domain.errors import ConfigError, StoreUnavailable

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

#: Below Jupyter's data directory, when the setting is empty.
DEFAULT = PurePath("comfy-lock", "store.sqlite")
_POSTGRESQL = {"postgresql", "postgres", "postgresql+psycopg"}
#: What a query may carry that nobody else must see.
SECRETS = ("password", "sslpassword")
_SQLITE = "sqlite:///"
_WAY_OUT = (
    "use an absolute path on a local disk, postgresql://user:password@host/database, or '' for "
    "a file in Jupyter's data directory"
)

#: File systems that one machine alone writes. What is not here is not trusted: on an unknown
#: one SQLite may lose locks without a word.
_LOCAL = {
    *("bcachefs", "btrfs", "ecryptfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "fuseblk"),
    *("hfsplus", "jffs2", "jfs", "msdos", "nilfs2", "ntfs", "ntfs3", "ramfs", "reiserfs"),
    *("rootfs", "tmpfs", "ubifs", "udf", "vfat", "xfs", "zfs"),
    *("aufs", "overlay"),  # what containers see; they stand on a local disk
    *("apfs", "hfs"),  # macOS
    *("ext2fs", "msdosfs", "ufs"),  # FreeBSD
}
_NETWORK = {
    "9p": "a folder of the host",
    "acfs": "ACFS",
    "afpfs": "AFP",
    "afs": "AFS",
    "beegfs": "BeeGFS",
    "ceph": "Ceph",
    "cifs": "SMB",
    "davfs": "WebDAV",
    "fakeowner": "a folder of the host",
    "fhgfs": "BeeGFS",
    "gfs2": "GFS2",
    "glusterfs": "GlusterFS",
    "gpfs": "GPFS",
    "lustre": "Lustre",
    "ncpfs": "NCP",
    "nfs": "NFS",
    "nfs4": "NFS",
    "ocfs2": "OCFS2",
    "orangefs": "OrangeFS",
    "panfs": "PanFS",
    "prl_fs": "a folder of the host",
    "pvfs2": "OrangeFS",
    "smb3": "SMB",
    "smbfs": "SMB",
    "vboxsf": "a folder of the host",
    "virtiofs": "a folder of the host",
    "vmhgfs": "a folder of the host",
    "webdav": "WebDAV",
    "wekafs": "Weka",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the store is: a SQLite file, or a PostgreSQL database."""

    #: What users and logs may see of it: no password.
    shown: str
    #: The SQLite file; None when it is PostgreSQL.
    path: Path | None = None
    _server: URL | None = field(default=None, repr=False)

    @property
    def url(self) -> URL:
        """For `create_engine`; carries the password. Imports SQLAlchemy."""
        if self._server is not None:
            return self._server
        from sqlalchemy.engine import URL  # noqa: PLC0415 - takes 0.2 s: in the worker thread

        return URL.create("sqlite", database=str(self.path))


def store_place(setting: str, data_dir: Path) -> Place:
    """Return the place that `c.ComfyLock.store` names. Nothing is opened or made.

    Raises:
        ConfigError: no store can be there. No part of the setting is repeated that may be
            a password.
    """
    text = setting.strip()
    if not text.isprintable():
        raise _wrong(why="must be one line of text")
    scheme, is_url, _ = text.partition("://")
    if not text:
        path = data_dir / DEFAULT
    elif text.startswith(_SQLITE):
        path = _file_of_url(text.removeprefix(_SQLITE))
    elif not is_url:
        path = _file(text)
    elif scheme in _POSTGRESQL:
        return _postgresql(text)
    else:
        raise _wrong(why=f"must not be {_named(scheme)}")
    return Place(shown=str(path), path=path)


def _file_of_url(text: str) -> Path:
    if "?" in text:
        raise _wrong(why="must not be a sqlite URL with options behind a '?'")
    return _file(unquote(text))


def _file(text: str) -> Path:
    if text in ("", ":memory:"):
        raise _wrong(why="must not be in memory, where no other Jupyter server would see the locks")
    path = Path(os.path.expanduser(text))
    if not path.is_absolute():
        # Not repeated: it may be a URL that was mistyped.
        raise _wrong(why="must not be a relative path, which is another from another folder")
    if text.endswith(("/", os.sep)):
        raise _wrong(why="must name a file, not a folder")
    return path


def _named(scheme: str) -> str:
    if scheme == "sqlite":
        return "a sqlite URL without an absolute path, as in sqlite:////var/tmp/store.sqlite"
    if scheme.startswith("postgresql+"):
        return "PostgreSQL by another driver than psycopg 3, which postgresql:// stands for"
    return f"{scheme}://" if re.fullmatch(r"[a-z][a-z0-9+]*", scheme) else "a URL of that kind"


def _postgresql(text: str) -> Place:
    from sqlalchemy.engine import make_url  # noqa: PLC0415 - only who uses PostgreSQL waits
    from sqlalchemy.exc import ArgumentError  # noqa: PLC0415 - the same

    if text.count("@") > 1:
        # Else what is behind the first would be taken for the host, and shown.
        raise _wrong(why="must have one '@'; write one in a user name or password as %40")
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        # The reason of either may quote the password.
        raise _wrong(why="must be a URL that can be read") from None
    if not url.database:
        raise _wrong(why="must name the database, as in postgresql://host/database")
    try:
        importlib.import_module("psycopg")
    except ImportError as error:
        why = (
            f"PostgreSQL needs psycopg, which cannot be imported ({' '.join(str(error).split())}). "
            "Install it where the Jupyter server runs: pip install 'jupyter_comfy_lock[postgres]'"
        )
        raise ConfigError(key="store", why=why) from None
    shown = url.set(drivername="postgresql").difference_update_query(SECRETS)
    return Place(
        shown=shown.render_as_string(hide_password=True),
        _server=url.set(drivername="postgresql+psycopg"),
    )


def _wrong(*, why: str) -> ConfigError:
    return ConfigError(key="store", why=f"{why}; {_WAY_OUT}")


class Mount(NamedTuple):
    """One mounted file system, as psutil tells it."""

    device: str
    mountpoint: str
    fstype: str
    opts: str


def untrusted_file_system(path: Path, mounts: Sequence[Mount] | None = None) -> str | None:
    """Return why a SQLite file must not lie at `path`, or None if it may.

    `mounts`, in the order in which they were mounted, are this machine's if left out. Asks the
    file system, which may take long where a network is behind it.

    The reason goes on from the path: "is on NFS (…), where …".
    """
    # Before the mounts are read: following the path may mount what it is on.
    real = Path(os.path.realpath(path))
    if mounts is None:
        try:
            mounts = [
                Mount(each.device, each.mountpoint, each.fstype, each.opts)
                for each in psutil.disk_partitions(all=True)
            ]
        except OSError as error:
            return f"is on a file system that cannot be told: {error}"
    return why_untrusted(real, mounts)


def why_untrusted(real: PurePath, mounts: Sequence[Mount]) -> str | None:
    """Decide what `untrusted_file_system` tells, of a path that has no symbolic links."""
    if isinstance(real, PureWindowsPath) and real.drive.startswith("\\\\"):
        return "is a network path, where several machines can write and SQLite cannot trust locks"
    suspects = _where(real, mounts)
    if not suspects:
        return "is on no file system that this machine lists, so none that is known to be local"
    judge = _why_not_windows if isinstance(real, PureWindowsPath) else _why_not
    return next((why for mount in suspects if (why := judge(mount))), None)


def _where(real: PurePath, mounts: Sequence[Mount]) -> list[Mount]:
    """The mount that holds `real`, and those that may hide it.

    Of two on the same point the last counts. One that came later on a folder above hides what
    was there, unless it was moved to its place; that cannot be seen, so all of them count. The
    root hides nothing: systems that start from a RAM disk mount it after others.
    """
    over = [mount for mount in mounts if real.is_relative_to(mount.mountpoint)]
    if not over:
        return []
    depths = [len(type(real)(each.mountpoint).parts) for each in over]
    deepest = max(range(len(over)), key=lambda place: (depths[place], place))
    later = [over[n] for n in range(deepest + 1, len(over)) if depths[n] > 1]
    return [over[deepest], *later]


def _why_not(mount: Mount) -> str | None:
    kind = mount.fstype.lower()
    if kind in _LOCAL:
        return None
    where = f"mounted at {mount.mountpoint} from {mount.device or 'an unnamed device'}"
    name = "FUSE" if kind.split(".")[0] == "fuse" else _NETWORK.get(kind)
    if name is None:
        return f"is on a file system ({where}) whose type {mount.fstype!r} is not known to be local"
    return (
        f"is on {name} (type {mount.fstype}, {where}), where several machines can write it and "
        "SQLite's locks cannot be trusted"
    )


def _why_not_windows(mount: Mount) -> str | None:
    if not {"fixed", "removable"}.isdisjoint(mount.opts.split(",")):
        return None
    return f"is on the drive {mount.mountpoint}, which is not known to be local ({mount.opts})"


def refusal(path: Path, reason: str) -> StoreUnavailable:
    """Return the error that says why the store is not opened at `path`, and the way out."""
    return StoreUnavailable(
        f"Locks and tasks cannot be kept in {path}: it {reason}. Set c.ComfyLock.store to a file "
        f"on a local disk, such as {_local_example()!r}, the same for each of your Jupyter servers "
        "on this machine; or, when Jupyter servers on several machines share ComfyServers, to a "
        "PostgreSQL database: 'postgresql://user:password@host/database'."
    )


def _local_example() -> str:
    if os.name == "nt":
        return "C:\\ProgramData\\comfy-lock\\store.sqlite"
    return f"/var/tmp/comfy-lock-{os.getuid()}/store.sqlite"

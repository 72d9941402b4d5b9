"""Where the store may be: the setting, and the file systems."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from types import SimpleNamespace

import psutil
import pytest
from sqlalchemy import create_engine, text

from jupyter_comfy_lock.domain.errors import ConfigError, StoreUnavailable
from jupyter_comfy_lock.store import place
from jupyter_comfy_lock.store.place import (
    Mount,
    refusal,
    store_place,
    untrusted_file_system,
    why_untrusted,
)

DATA = Path("/home/ann/.local/share/jupyter")
SECRET = "s3cret"


def refused(setting: str) -> str:
    with pytest.raises(ConfigError) as caught:
        store_place(setting, DATA)
    assert caught.value.details == {"key": "store"}
    assert SECRET not in caught.value.message
    # A log must not show what led to it either: that quotes the setting.
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return caught.value.message


# The setting


@pytest.mark.parametrize("setting", ["", "  "])
def test_an_empty_setting_is_a_file_in_the_data_directory(setting: str) -> None:
    assert store_place(setting, DATA).path == DATA / "comfy-lock" / "store.sqlite"


@pytest.mark.parametrize(
    ("setting", "path"),
    [
        ("/var/tmp/x/store.sqlite", "/var/tmp/x/store.sqlite"),
        ("/var/tmp/a b?c#d%20.sqlite", "/var/tmp/a b?c#d%20.sqlite"),
        ("~/store.sqlite", "/home/ann/store.sqlite"),
        ("sqlite:////var/tmp/x.sqlite", "/var/tmp/x.sqlite"),
        ("sqlite:////var/tmp/a%20b%3Fc.sqlite", "/var/tmp/a b?c.sqlite"),
        ("sqlite:///~/x.sqlite", "/home/ann/x.sqlite"),
        (" /var/tmp/x.sqlite\n", "/var/tmp/x.sqlite"),
    ],
)
def test_a_file_is_named_by_its_path_or_a_sqlite_url(
    setting: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    found = store_place(setting, DATA)
    assert (found.path, found.shown) == (Path(path), path)
    assert found.url.drivername == "sqlite"
    assert found.url.database == path


def test_sqlite_opens_the_very_file_that_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a ?#%20@.sqlite"
    engine = create_engine(store_place(str(file), DATA).url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE it (x INTEGER)"))
    engine.dispose()
    assert [each.name for each in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_postgresql_is_reached_by_psycopg_and_shown_without_its_password(scheme: str) -> None:
    found = store_place(f"{scheme}://ann:{SECRET}%40@db.example:5433/locks?sslmode=require", DATA)
    assert found.path is None
    assert found.url.drivername == "postgresql+psycopg"
    assert (found.url.password, found.url.host, found.url.port) == (
        f"{SECRET}@",
        "db.example",
        5433,
    )
    assert found.shown == "postgresql://ann:***@db.example:5433/locks?sslmode=require"
    assert SECRET not in f"{found!r} {found} {found.url!r}"


def test_a_password_among_the_options_is_not_shown_either() -> None:
    options = f"password={SECRET}&sslpassword={SECRET}&sslmode=require"
    found = store_place(f"postgresql://ann@db.example/locks?{options}", DATA)
    assert found.shown == "postgresql://ann@db.example/locks?sslmode=require"
    assert found.url.query["password"] == SECRET
    assert SECRET not in repr(found)


def test_the_socket_of_a_local_postgresql_needs_no_host() -> None:
    assert store_place("postgresql:///locks", DATA).shown == "postgresql:///locks"


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("store.sqlite", "relative path"),
        ("./store.sqlite", "relative path"),
        ("~nobody-of-that-name/store.sqlite", "relative path"),
        (f"ann:{SECRET}@db.example/locks", "relative path"),
        (f"postgresql:/ann:{SECRET}@db.example/locks", "relative path"),
        ("/var/tmp/", "a file, not a folder"),
        (":memory:", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("sqlite:///", "in memory"),
        ("sqlite://", "sqlite URL without an absolute path"),
        ("sqlite://var/tmp/x", "sqlite URL without an absolute path"),
        ("sqlite:///var/tmp/x", "relative path"),
        ("sqlite:////var/tmp/x?mode=memory", "options"),
        ("sqlite+aiosqlite:////var/tmp/x", "sqlite+aiosqlite://"),
        (f"mysql://ann:{SECRET}@db.example/locks", "mysql://"),
        (f"postgresql+asyncpg://ann:{SECRET}@db.example/locks", "another driver"),
        (f"ann:{SECRET}://db.example/locks", "a URL of that kind"),
        (f"postgresql://ann:{SECRET}@db.example", "name the database"),
        (f"postgresql://ann:{SECRET}@db.example:port/locks", "can be read"),
        (f"postgresql://ann:x@{SECRET}@db.example/locks", "%40"),
        (f"postgresql://ann:x@y/{SECRET}@db.example/locks", "%40"),
        (f"postgresql://ann:x@y?{SECRET}@db.example/locks", "%40"),
        (f"postgresql://ann:{SECRET}\n@db.example/locks", "one line"),
        ("/var/tmp/\0", "one line"),
    ],
)
def test_anything_else_is_refused_with_the_way_out(setting: str, why: str) -> None:
    message = refused(setting)
    assert message.startswith("c.ComfyLock.store: must ")
    assert why in message
    assert "use an absolute path on a local disk, postgresql://" in message


def test_postgresql_without_psycopg_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    message = refused(f"postgresql://ann:{SECRET}@db.example/locks")
    assert "pip install 'jupyter_comfy_lock[postgres]'" in message


def test_a_file_is_placed_without_importing_sqlalchemy() -> None:
    script = (
        "import sys; from pathlib import Path; from jupyter_comfy_lock.store import place\n"
        "place.store_place('/var/tmp/x', Path('/')); place.store_place('', Path('/'))\n"
        "assert not {'sqlalchemy', 'psycopg'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


# The file systems

ROOT = Mount("/dev/vda", "/", "ext4", "rw")
HOME = Mount("files:/export/home", "/home", "nfs4", "rw,vers=4.2")
ON_HOME = (
    "is on NFS (type nfs4, mounted at /home from files:/export/home), where several machines can "
    "write it and SQLite's locks cannot be trusted"
)


def on(path: str, *mounts: Mount) -> str | None:
    return why_untrusted(PurePosixPath(path), mounts)


def mounted(kind: str, at: str = "/data") -> Mount:
    return Mount("device", at, kind, "rw")


def test_a_local_disk_is_trusted_and_nfs_is_not() -> None:
    assert on("/var/tmp/x", ROOT, HOME) is None
    assert on("/home/ann/x", ROOT, HOME) == ON_HOME


def test_a_mount_point_is_a_folder_and_not_the_beginning_of_a_name() -> None:
    mounts = (ROOT, mounted("nfs", "/data"))
    assert on("/data2/x", *mounts) is None
    assert on("/data/x", *mounts)
    assert on("/data", *mounts)


@pytest.mark.parametrize("order", [1, -1])
def test_the_deepest_mount_counts(order: int) -> None:
    local, remote = mounted("xfs", "/home/ann/scratch"), mounted("nfs", "/var/tmp")
    mounts = (ROOT, local, remote)[::order]
    assert on("/home/ann/scratch/x", HOME, *mounts) is None
    assert on("/home/ann/x", HOME, *mounts) == ON_HOME
    assert on("/var/tmp/x", *mounts)


def test_a_root_that_comes_last_hides_nothing() -> None:
    root = mounted("nfs", "/")
    assert on("/var/tmp/x", mounted("tmpfs", "/var/tmp"), root) is None
    assert on("/home/x", mounted("tmpfs", "/var/tmp"), root)


def test_the_last_of_two_mounts_on_one_point_counts() -> None:
    automount = mounted("autofs", "/home")
    assert on("/home/x", ROOT, automount, mounted("ext4", "/home")) is None
    assert on("/home/x", ROOT, mounted("ext4", "/home"), HOME) == ON_HOME


def test_a_mount_that_may_be_hidden_by_one_above_is_as_trusted_as_the_worse() -> None:
    below = mounted("ext4", "/home/ann")
    assert on("/home/ann/x", ROOT, below, HOME) == ON_HOME
    assert on("/home/ann/x", ROOT, mounted("nfs", "/home/ann"), mounted("ext4", "/home"))
    assert on("/home/ann/x", ROOT, HOME, below) is None


@pytest.mark.parametrize(
    "kind",
    ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "fuseblk", "vfat", "apfs", "ufs", "APFS"],
)
def test_what_one_machine_alone_writes_is_trusted(kind: str) -> None:
    assert on("/data/x", ROOT, mounted(kind)) is None


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("nfs", "NFS"),
        ("cifs", "SMB"),
        ("smb3", "SMB"),
        ("smbfs", "SMB"),
        ("9p", "a folder of the host"),
        ("virtiofs", "a folder of the host"),
        ("lustre", "Lustre"),
        ("ceph", "Ceph"),
        ("gpfs", "GPFS"),
        ("fuse.sshfs", "FUSE"),
        ("fuse", "FUSE"),
    ],
)
def test_what_several_machines_write_is_refused_by_its_name(kind: str, name: str) -> None:
    assert (on("/data/x", ROOT, mounted(kind)) or "").startswith(f"is on {name} (type {kind}, ")


def test_what_is_not_known_is_not_trusted() -> None:
    assert on("/data/x", ROOT, Mount("", "/data", "newfs", "rw")) == (
        "is on a file system (mounted at /data from an unnamed device) whose type 'newfs' is not "
        "known to be local"
    )
    assert "no file system that this machine lists" in str(on("/data/x"))


@pytest.mark.parametrize(
    ("path", "trusted"),
    [
        (r"C:\Users\Ann\x", True),
        (r"c:\users\ann\x", True),
        (r"E:\x", True),
        (r"Z:\x", False),
        (r"C:\mnt\share\x", False),
        (r"Q:\x", False),
        (r"\\files\home\x", False),
    ],
)
def test_on_windows_a_fixed_or_removable_drive_is_trusted(path: str, trusted: bool) -> None:
    mounts = [
        Mount("C:\\", "C:\\", "NTFS", "rw,fixed"),
        Mount("C:\\", "C:\\mnt\\share\\", "NTFS", "rw,remote"),
        Mount("E:\\", "E:\\", "exFAT", "rw,removable"),
        Mount("Z:\\", "Z:\\", "NTFS", "rw,remote"),
    ]
    assert (why_untrusted(PureWindowsPath(path), mounts) is None) is trusted


def test_links_are_followed_also_where_nothing_exists_yet(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "share").mkdir()
    (tmp_path / "disk" / "link").symlink_to(tmp_path / "share")
    (tmp_path / "disk" / "dangling.sqlite").symlink_to(tmp_path / "share" / "not-yet")
    real = tmp_path.resolve()
    mounts = [mounted("ext4", str(real)), mounted("nfs", str(real / "share"))]
    for below, trusted in {
        "disk/not/yet/x": True,
        "disk/link/not/yet/x": False,
        "disk/link/../disk/x": True,
        "disk/dangling.sqlite": False,
    }.items():
        path = tmp_path / below
        assert (untrusted_file_system(path, mounts) is None) is trusted, below


def test_this_machine_trusts_where_its_tests_write(tmp_path: Path) -> None:
    assert untrusted_file_system(tmp_path / "not" / "yet" / "store.sqlite") is None


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="Linux has a /proc")
def test_this_machine_does_not_trust_what_is_no_disk() -> None:
    assert "type 'proc' is not known to be local" in str(untrusted_file_system(Path("/proc/x")))


def test_a_machine_that_cannot_tell_its_mounts_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_partitions(*, all: bool) -> None:
        msg = "no mounts here"
        raise PermissionError(msg)

    monkeypatch.setattr(place, "psutil", SimpleNamespace(disk_partitions=disk_partitions))
    assert "cannot be told: no mounts here" in str(untrusted_file_system(tmp_path / "x"))


def test_psutil_tells_what_is_asked_of_it() -> None:
    assert set(Mount._fields) <= set(psutil.disk_partitions(all=True)[0]._fields)


def test_a_refusal_says_why_and_two_ways_out() -> None:
    error = refusal(Path("/home/ann/x"), ON_HOME)
    assert isinstance(error, StoreUnavailable)
    assert error.message.startswith(
        "Locks and tasks cannot be kept in /home/ann/x: it is on NFS (type nfs4, mounted at /home"
    )
    assert "c.ComfyLock.store to a file on a local disk, such as '/var/tmp/" in error.message
    assert "the same for each of your Jupyter servers on this machine" in error.message
    assert "'postgresql://user:password@host/database'" in error.message


def test_the_place_that_a_refusal_names_is_one_that_the_setting_takes() -> None:
    found = store_place(place._local_example(), DATA)
    assert isinstance(found.path, PurePath)

"""The database URL: valid forms, and the error for each invalid one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator.store.database.passfile import password_for
from orchestrator.store.database.postgresql_url import Host, PostgresqlUrl
from orchestrator.store.database.url import database_url, dialect_of, shown

SECRET = "p@ss:w/o?r#d%"
QUOTED = "p%40ss%3Aw%2Fo%3Fr%23d%25"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Remove the user's own settings for PostgreSQL."""
    for name in ("PGPASSWORD", "PGPASSFILE", "PGPORT", "PGUSER", "PGHOST", "PGSSLROOTCERT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    path = tmp_path / "ca.crt"
    path.touch()
    return path


def parsed(url: str) -> PostgresqlUrl:
    return PostgresqlUrl.parse(url, Path("/etc"))


# --- SQLite --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("sqlite:///x.db", "/etc/orchestrator/x.db"),
        ("sqlite:///data/x.db", "/etc/orchestrator/data/x.db"),
        ("sqlite:///../x.db", "/etc/x.db"),
        ("sqlite:////var/x.db", "/var/x.db"),
        ("sqlite:////var/lib/../x.db", "/var/x.db"),
        ("sqlite+aiosqlite:////var/x.db", "/var/x.db"),
        ("sqlite:////var/a b%20c#d@e.db", "/var/a b%20c#d@e.db"),
        ("sqlite:///~/x.db", "HOME/x.db"),
        ("sqlite:////~/x.db", "/~/x.db"),
    ],
)
def test_a_path_is_relative_to_the_configuration_and_shown_whole(
    given: str, path: str, home: Path
) -> None:
    path = path.replace("HOME", str(home))
    made = database_url(given, Path("/etc/orchestrator"))
    assert shown(made) == path
    assert dialect_of(made).name == path
    # A parsed URL is absolute: parsing it again in another folder gives the same URL.
    assert database_url(made, Path("/elsewhere")) == made


def test_where_there_is_no_configuration_file_it_is_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert shown(database_url("sqlite:///x.db", Path())) == f"{tmp_path}/x.db"


# --- PostgreSQL ----------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+asyncpg"])
def test_a_url_says_what_the_tools_of_postgresql_take_from_it(scheme: str) -> None:
    url = parsed(f"{scheme}://me%40home:{QUOTED}@db1:5433,[::1],db3/some%2Fname")
    assert url.user == "me@home"
    assert url.password == SECRET
    assert url.hosts == (Host("db1", 5433), Host("::1", None), Host("db3", None))
    assert url.database == "some/name"
    assert parsed(str(url)) == url
    assert str(url) == f"postgresql://me%40home:{QUOTED}@db1:5433,[::1],db3/some%2Fname"
    assert url.shown == "postgresql://me%40home:***@db1:5433,[::1],db3/some%2Fname"
    assert SECRET not in repr(url)


@pytest.mark.parametrize(
    ("given", "password"),
    [
        ("postgresql://me:a:b/c@host/name", "a:b/c"),
        ("postgresql://me:100%sure@host/name", "100%sure"),
        ("postgresql://me:a?b#c@host/name", "a?b#c"),
        ("postgresql://me@host/name", None),
        ("postgresql://host/name", None),
        ("postgresql:///name", None),
    ],
)
def test_a_password_that_can_mean_one_thing_only_need_not_be_encoded(
    given: str, password: str | None
) -> None:
    url = parsed(given)
    assert (url.password, url.database) == (password, "name")
    assert [host.name for host in url.hosts] == ["host"] * ("host" in given)


def test_a_socket_is_named_by_its_folder() -> None:
    url = parsed("postgresql://%2Fvar%2Frun%2Fpostgresql:5433/name")
    assert url.hosts == (Host("/var/run/postgresql", 5433),)
    assert parsed(str(url)) == url


def test_parameters_that_the_tools_of_postgresql_know(certificate: Path) -> None:
    asked = "sslmode=verify-full&sslrootcert=ca.crt&target_session_attrs=primary&connect_timeout=7"
    url = PostgresqlUrl.parse(f"postgresql://a,b/name?{asked}", certificate.parent)
    assert url.tls == {"sslmode": "verify-full", "sslrootcert": str(certificate)}
    assert url.target == "primary"
    assert url.connect_timeout_s == 7.0
    assert parsed(str(url)) == url


def test_several_hosts_ask_for_one_that_accepts_writes() -> None:
    assert parsed("postgresql://a,b/name").target == "read-write"
    assert parsed("postgresql://a,b/name?target_session_attrs=any").target == "any"
    assert parsed("postgresql://a/name").target is None


ENCODE = "percent-encode"
MISTAKES = [
    ("postgresql://me:p@ss@host/name", "@ as %40, : as %3A, / as %2F"),
    ("postgresql://me@home:secret@host/name", ENCODE),
    ("postgresql://me:p@ss/w@host/name?sslmode=require", ENCODE),
    ("postgresql://me:p/w:x@host:a/name", ENCODE),
    ("postgresql://me:p@host", "postgresql://USER:PASSWORD@HOST:PORT/NAME"),
    ("postgresql://host/", "HOST:PORT,HOST:PORT"),
    ("postgresql://host:99999/name", "its port a number"),
    ("postgresql://host:0/name", "its port a number"),
    ("postgresql://::1/name", "an IPv6 address in brackets"),
    ("postgresql://a,,b/name", "its port a number"),
    ("postgresql://h/n?sslmode=on", "must be one of disable, allow, prefer, require, verify-ca"),
    ("postgresql://h/n?sslmode=verify-full", "needs sslrootcert"),
    ("postgresql://h/n?sslmode=verify-ca&sslrootcert=no.crt", "there is no file /etc/no.crt"),
    ("postgresql://h/n?sslkey=~/no.key", "there is no file HOME/no.key"),
    ("postgresql://h/n?target_session_attrs=standby", "must be one of any, primary, read-write"),
    ("postgresql://h/n?connect_timeout=0", "from 1 to 10"),
    ("postgresql://h/n?connect_timeout=3.5", "from 1 to 10"),
    ("postgresql://h/n?connect_timeout=60", "from 1 to 10"),
    ("postgresql://h/n?gssencmode=disable", "gssencmode cannot be given: only sslmode, target_"),
    ("postgres", "postgresql://USER:PASSWORD@HOST:PORT/NAME"),
    ("mysql://host/name", "sqlite:///PATH of a file, or postgresql://USER"),
    ("sqlite:///", "sqlite:///PATH"),
    ("sqlite://x.db", "sqlite:///PATH"),
    ("sqlite:///:memory:", "sqlite:///PATH"),
    ("sqlite:///x.db?mode=ro", "sqlite:///PATH"),
    ("sqlite:///a\0b", "sqlite:///PATH"),
    ("sqlite:///~nobody-of-this-name/x.db", "the home folder of this user is unknown"),
]


@pytest.mark.parametrize(("given", "says"), MISTAKES)
def test_a_mistake_says_what_to_do_and_repeats_no_password(
    given: str, says: str, home: Path
) -> None:
    with pytest.raises(ValueError, match=re.escape(says.replace("HOME", str(home)))) as caught:
        database_url(given, Path("/etc"))
    for part in ("p@ss", "p/w", "secret"):
        assert part not in str(caught.value)


# --- the password file ---------------------------------------------------------------------------


LINES = r"""
# a comment:*:*:*:no

short:line
db\:1:5432:name:me:colon\:in\\it
[::1]:5432:name:me:never
\:\:1:5432:name:me:six
db2:5433:name:me:another\port
localhost:*:*:me:socket:not this
*:5432:other\:name:me:other
*:*:*:me:last
"""


@pytest.mark.parametrize(
    ("host", "port", "database", "user", "password"),
    [
        ("db:1", 5432, "name", "me", "colon:in\\it"),
        ("db:1", None, "name", "me", "colon:in\\it"),
        ("::1", 5432, "name", "me", "six"),
        ("db2", 5433, "name", "me", "anotherport"),
        ("db2", 5432, "name", "me", "last"),
        ("/var/run/postgresql", 5432, "name", "me", "socket"),
        ("db2", 5432, "other:name", "me", "other"),
        ("db2", 5432, "name", "you", None),
    ],
)
def test_a_password_file_is_read_as_the_tools_of_postgresql_do(
    host: str,
    port: int | None,
    database: str,
    user: str,
    password: str | None,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = home / ".pgpass"
    path.write_text(LINES, encoding="utf-8")
    path.chmod(0o600)
    assert password_for(host, port, database, user) == password
    monkeypatch.setenv("PGUSER", user)
    assert password_for(host, port, database, None) == password
    monkeypatch.setenv("PGPASSWORD", "from the environment")
    assert password_for(host, port, database, user) == "from the environment"


def test_a_password_file_that_others_may_read_is_ignored_and_logged(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = home / "passwords"
    monkeypatch.setenv("PGPASSFILE", str(path))
    assert password_for("h", None, "name", "me") is None
    assert caplog.messages == []
    path.write_text("*:*:*:*:secret\n")
    path.chmod(0o640)
    assert password_for("h", None, "name", "me") is None
    assert caplog.messages == [f"{path} is ignored because other users may read it: chmod 600"]
    path.chmod(0o600)
    assert password_for("h", None, "name", "me") == "secret"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("~nobody-of-this-name/x", None),
        ("n" * 256, "File name too long"),
        ("loop", "Too many levels of symbolic links"),
    ],
)
def test_a_password_file_that_cannot_be(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    path: str,
    expected: str | None,
) -> None:
    """A process without a home folder is not an error: the server may need no password."""
    (home / "loop").symlink_to(home / "loop")
    monkeypatch.chdir(home)
    monkeypatch.setenv("PGPASSFILE", path)
    assert password_for("h", None, "name", "me") is None
    assert len(caplog.messages) == bool(expected)
    assert not expected or expected in caplog.messages[0]

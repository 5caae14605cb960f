"""No password of an address is printed, stored or part of an error, however it was typed."""

from __future__ import annotations

import os
from pathlib import Path

import forkserver
import pytest

from nearfar.core.errors import NearfarError
from nearfar.core.redact import redact, redact_text
from nearfar.data.sources import open_source
from nearfar.features import files as features
from nearfar.finetuning import prediction_files as predictions
from nearfar.queries import listing
from nearfar.stores import open_store
from nearfar.stores.pg_connection import Server, parse

SECRET = "hunter2"
TYPED = [
    "postgresql://bob:hunter2@127.0.0.1:1/db",
    "postgres://bob:hunter2@127.0.0.1:1/db",
    "postgresql://bob:hun/hunter2@127.0.0.1:1/db",
    "postgresql://bob:12/hunter2@127.0.0.1:1/db",
    "postgresql://bob:hunter2#x@127.0.0.1:1/db",
    "postgresql://bob:12#hunter2@127.0.0.1:1/db",
    "postgresql://bob:hunter2?x@127.0.0.1:1/db",
    "postgresql://bob:12?hunter2=x@127.0.0.1:1/db",
    "postgresql://bob:a@hunter2@127.0.0.1:1/db",
    "postgresql://bob:a:hunter2@127.0.0.1:1/db",
    "postgresql://bob:a hunter2@127.0.0.1:1/db",
    "postgresql://bob:[hunter2@127.0.0.1:1/db",
    "postgresql://bob:%68unter2@127.0.0.1:1/db",
    "postgresql://:hunter2@127.0.0.1:1/db",
    "postgresql://bob@127.0.0.1:1/db?password=hunter2",
    "postgresql://bob@127.0.0.1:1/db?PASSWORD=hunter2",
    "postgresql://bob@127.0.0.1:1/db?pass%77ord=hunter2",
    "postgresql://bob@127.0.0.1:1/db?p%61ssword=hunter2",
    "postgresql://bob:hunter2",
    "postgresql://bob:hunter2/db",
    "postgresql://bob@127.0.0.1:1/db?sslpassword=hunter2&sslkey=a",
    "postgresql://bob@127.0.0.1:1/db?password=a&hunter2",
    "postgresql://bob:hunter2@127.0.0.1:1/db?table=A",
    "postgresql://bob:hunter2@127.0.0.1:1/db?sslmode=maybe",
    "postgresql://bob:hunter2@127.0.0.1:1/db?sslmod=require",
    "postgresql://bob:hunter2@127.0.0.1:port/db",
    "POSTGRESQL://bob:hunter2@127.0.0.1:1/db",
    "postgresql+psycopg2://bob:hunter2@127.0.0.1:1/db",
    " postgresql://bob:hunter2@127.0.0.1:1/db",
    "postgresql:/bob:hunter2@127.0.0.1:1/db",
    "postgresql//bob:hunter2@127.0.0.1:1/db",
    "postgresql/bob:hunter2@127.0.0.1:1/db",
    "Postgres;//bob:hunter2@127.0.0.1:1/db",
    "'postgresql://bob:hunter2@127.0.0.1:1/db'",
    "mysql://bob:hunter2@127.0.0.1:1/db",
    "host=127.0.0.1 port=1 user=bob password=hunter2 dbname=db",
    "nowhere://key:hunter2@bucket/photos.nf",
    "nowhere://bucket/photos.nf?secret_access_key=hunter2",
    "hf:org/name?token=hunter2",
]


def leaks(text: str) -> bool:
    return SECRET in text or "unter2" in text


@pytest.mark.parametrize("address", TYPED)
def test_no_error_of_a_store_has_the_password(address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NearfarError) as caught:
        open_store(address)
    assert not leaks(str(caught.value)), caught.value
    assert not leaks(redact(address)) and not leaks(redact_text(f"{address} is wrong", address))


@pytest.mark.parametrize(
    "words",
    [
        ["store", TYPED[0]],
        ["store", TYPED[10]],
        ["store", "photos.nf", TYPED[0]],
        ["store", TYPED[0], "--nonsense"],
        ["embed", "runs/a", TYPED[0], "--store", TYPED[0]],
        [TYPED[0]],
    ],
)
def test_no_command_prints_it(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = forkserver.run(forkserver.NEARFAR, *words)
    assert said.returncode == 2 and not leaks(said.stdout + said.stderr), said.stderr


@pytest.mark.parametrize(
    "address",
    ["s3://key:hunter2@b/x.csv", "https://h/x.csv?X-Amz-Signature=hunter2", "https://h/x?token=hunter2.csv"],
)
def test_a_part_of_an_address_is_not_repeated(address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for check in (features.check_name, predictions.check_name, listing.check_name):
        with pytest.raises(NearfarError, match="is an address") as caught:
            check(Path(address))
        assert not leaks(str(caught.value)), caught.value
    for told in (f"no such thing as {address.partition('://')[2]}", f"ends in {address.rpartition('.')[2]}"):
        assert not leaks(redact_text(told, address)), told
    with pytest.raises(NearfarError, match=r"hf:org/name\?\*\*\* has parameters, .* HF_TOKEN") as caught:
        open_source("hf:org/name?token=hunter2")
    plain = "postgresql://bob@host/db?table=photos"
    assert redact_text("bob and photos stay", plain, "runs/a") == "bob and photos stay"


def test_a_password_that_a_server_repeats_is_left_out(monkeypatch):
    monkeypatch.setitem(os.environ, "PGPASSWORD", "hunter2/")
    address = parse("postgresql://bob@127.0.0.1:1/db")
    assert address.how["password"] == "hunter2/" and not leaks(repr(address))
    server = Server(address)
    for text in ("no such thing as hunter2/", "no such thing as hunter2%2F", "postgresql://bob:hunter2/@h"):
        assert not leaks(server._reason(Exception({"M": text}))) and not leaks(server._reason(OSError(text)))


def test_what_is_no_secret_stays():
    for plain in (
        "photos.nf",
        "C:/Users/a@b:c/photos.nf",
        "/home/me@work/key=1/photos.nf",
        "s3://bucket/key=1/photos.nf",
        "postgresql://[::1]:5432/db",
        "postgresql://host:5432",
        "postgresql://bob@host:5432/db?table=photos",
    ):
        assert redact(plain) == plain
    assert redact("postgresql://bob:pw@host/db?table=a") == "postgresql://bob@host/db?table=a"
    assert parse("postgresql://bob:a%2Fb@host/db").how["password"] == "a/b"

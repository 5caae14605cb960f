"""Whether a vector store works at an object store's address, with several writers; moto plays S3, here.

    pip install 'nearfar[store]' 'moto[s3]' flask flask-cors
    python -m benchmarks.object_store

Rows are put, labelled, searched and deleted, the store is reopened each time, and four writers put rows at
once. Ends with 1 if a row is lost, doubled or another.
"""

from __future__ import annotations

import logging
import os
import sys
import threading

import numpy as np

ROWS, WIDTH, WRITERS, PUTS = 2000, 32, 4, 10
ADDRESS = "s3://bucket/photos.nf"


def table(ids: list[str], x: np.ndarray) -> object:
    import pyarrow as pa

    from nearfar.stores.arrow_rows import fixed

    return pa.table({"id": ids, "vector": fixed(x)})


def main() -> None:
    """Start the server, and use it."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    home = f"http://{host}:{port}"
    os.environ |= {"AWS_ENDPOINT": home, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}
    os.environ |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    boto3.client("s3", endpoint_url=home, region_name="us-east-1").create_bucket(Bucket="bucket")

    from nearfar.stores import StoreInfo, open_store

    x = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)
    ids = [f"{row:04d}" for row in range(ROWS)]
    open_store(ADDRESS, StoreInfo(WIDTH)).upsert(table(ids, x))
    open_store(ADDRESS).update("label", {"0003": "cat"})
    opened = open_store(ADDRESS)
    checks = {
        "all rows are there": opened.ids() == ids and np.array_equal(opened.vectors()[1], x),
        "a label is there": opened.ids("label = 'cat'") == ["0003"],
        "each row is its own nearest": [found[0] for found in opened.nearest(x[:50], 3)[0]] == ids[:50],
    }
    opened.delete(where="label = 'cat'")
    checks["a deleted row is gone"] = len(open_store(ADDRESS)) == ROWS - 1
    failed: list[str] = []

    def write(who: int) -> None:
        try:
            store = open_store(ADDRESS)
            for number in range(PUTS):
                store.upsert(table([f"w{who}-{number}"], x[:1]))
        except Exception as error:  # whatever it is, it is told
            failed.append(f"{type(error).__name__}: {error}")

    writers = [threading.Thread(target=write, args=(who,)) for who in range(WRITERS)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    after = open_store(ADDRESS).ids()
    whole = len(after) == len(set(after)) == ROWS - 1 + WRITERS * PUTS
    checks[f"{WRITERS} writers at once lose and double nothing"] = whole and not failed
    server.stop()
    for what, right in checks.items():
        print(f"{'right' if right else 'WRONG'}  {what}")
    for reason in failed:
        print(f"       {reason}")
    sys.exit(not all(checks.values()))


if __name__ == "__main__":
    main()

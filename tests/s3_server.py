"""A server that speaks S3, in a process of its own: moto's, which answers one request at a time.

So its conditional puts are one step each, as those of object storage are. It has a bucket called
"films"; with users, one may do everything and one may only read, and signatures are checked.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

BUCKET = "films"


@contextmanager
def served(users: bool = False) -> Iterator[dict[str, dict[str, str]]]:
    """Run a server; yield what the environment says for each user of it: "all" and "read"."""
    process = subprocess.Popen(
        [sys.executable, __file__, *(["users"] if users else [])],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert process.stdout
        said = json.loads(process.stdout.readline())
        yield {
            user: {
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{said['port']}",
                "AWS_ALLOW_HTTP": "true",
                "AWS_REGION": "us-east-1",
                "AWS_ACCESS_KEY_ID": key,
                "AWS_SECRET_ACCESS_KEY": secret,
            }
            for user, (key, secret) in said["keys"].items()
        }
    finally:
        process.kill()
        process.communicate()


def _serve(with_users: bool) -> None:
    os.environ["INITIAL_NO_AUTH_ACTION_COUNT"] = "7" if with_users else "inf"

    from threading import Thread

    import boto3
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    # werkzeug would answer one connection at a time, and clients keep theirs open
    WSGIRequestHandler.protocol_version = "HTTP/1.0"
    WSGIRequestHandler.log = lambda *_: None  # type: ignore[method-assign]
    application = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", 0, application)
    thread = Thread(target=server.serve_forever)
    thread.start()

    anyone = ("anyone", "anything")
    where = {"endpoint_url": f"http://127.0.0.1:{server.port}", "region_name": "us-east-1"}
    how = {"aws_access_key_id": anyone[0], "aws_secret_access_key": anyone[1]}
    boto3.client("s3", **where, **how).create_bucket(Bucket=BUCKET)
    keys = {"all": anyone}
    if with_users:
        iam = boto3.client("iam", **where, **how)
        for name, actions in (("all", ["s3:*"]), ("read", ["s3:Get*", "s3:List*"])):
            iam.create_user(UserName=name)
            made = iam.create_access_key(UserName=name)["AccessKey"]
            keys[name] = (made["AccessKeyId"], made["SecretAccessKey"])
            allowed = [{"Effect": "Allow", "Action": actions, "Resource": "*"}]
            policy = json.dumps({"Version": "2012-10-17", "Statement": allowed})
            iam.put_user_policy(UserName=name, PolicyName=name, PolicyDocument=policy)
    print(json.dumps({"port": server.port, "keys": keys}), flush=True)
    thread.join()


if __name__ == "__main__":
    _serve(sys.argv[1:] == ["users"])

"""A Route 53 on this machine, and hosted zones in it as an operator sees them."""

import importlib.util
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from processes import free_ports, wait_until

START_SECONDS = 60
KEY_ID, SECRET = "AKIAEXAMPLEOFTESTS", "vErYsEcReT+of/the0tests"
REGION = "us-east-1"
MISSING = [name for name in ("moto", "boto3", "flask", "flask_cors") if importlib.util.find_spec(name) is None]


class Moto:
    """The server; it forgets everything when it ends."""

    def __init__(self, directory):
        self.port = free_ports(1)[0]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = directory / "moto.log"
        program = Path(__file__).with_name("strict_moto.py")
        with open(self.log, "wb") as log:
            command = [sys.executable, str(program), str(self.port)]
            self.server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            self.client = self.connected()
        except BaseException:
            self.end()
            raise

    def connected(self):
        import boto3
        from botocore.config import Config

        options = Config(retries={"total_max_attempts": 1}, proxies={}, connect_timeout=5, read_timeout=30)
        client = boto3.client(
            "route53",
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id=KEY_ID,
            aws_secret_access_key=SECRET,
            config=options,
        )

        def answers():
            assert self.server.poll() is None, self.log.read_text()
            try:
                return client.list_hosted_zones()
            except Exception:  # noqa: BLE001: it is not up yet
                return None

        wait_until("moto answers", answers, START_SECONDS)
        return client

    def zone(self, name):
        made = self.client.create_hosted_zone(Name=name, CallerReference=uuid.uuid4().hex)
        return Zone(self.client, made["HostedZone"]["Id"].rsplit("/", 1)[1], name)

    def end(self):
        self.server.kill()
        self.server.wait()


class Zone:
    """A hosted zone. Names are written without the dot at the end, and an asterisk as such."""

    def __init__(self, client, zone_id, name):
        self.client, self.id, self.name = client, zone_id, name

    def everything(self):
        """All records by name and type, as they were answered."""
        pages = self.client.get_paginator("list_resource_record_sets").paginate(HostedZoneId=self.id)
        sets = [each for page in pages for each in page["ResourceRecordSets"]]
        found = {(each["Name"].rstrip(".").replace(r"\052", "*"), each["Type"]): each for each in sets}
        assert len(found) == len(sets), f"a name is there twice: {sets}"
        return found

    def addresses(self):
        """A records: by name, the TTL and the values."""
        return {name: told(each) for (name, kind), each in self.everything().items() if kind == "A"}

    def marks(self):
        """What is marked as Nebula's, by TXT records: names and what they say."""
        texts = {name: each for (name, kind), each in self.everything().items() if kind == "TXT"}
        return {name: told(each)[1] for name, each in texts.items() if name.startswith("_nebula")}

    def put(self, name, kind, *values, ttl=60):
        self.change("UPSERT", name, kind, values, ttl)

    def drop(self, name, kind):
        """Deletes a record by hand, whatever it is."""
        ttl, values = told(self.everything()[name, kind])
        self.change("DELETE", name, kind, values, ttl)

    def change(self, action, name, kind, values, ttl):
        records = [{"Value": value} for value in values]
        wanted = {"Name": name, "Type": kind, "TTL": ttl, "ResourceRecords": records}
        changes = {"Changes": [{"Action": action, "ResourceRecordSet": wanted}]}
        self.client.change_resource_record_sets(HostedZoneId=self.id, ChangeBatch=changes)


def told(record):
    return record["TTL"], [value["Value"] for value in record["ResourceRecords"]]


@pytest.fixture(scope="session")
def moto(tmp_path_factory):
    """One server for all zones."""
    if MISSING:
        pytest.skip(f"the Python modules {', '.join(MISSING)} cannot be had here")
    server = Moto(tmp_path_factory.mktemp("moto"))
    yield server
    server.end()

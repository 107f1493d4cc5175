"""moto's server with a Route 53 that is as strict as Amazon's: `python strict_moto.py PORT`.

moto creates what is there already, does not create again what was once deleted, and lets an alias stand beside other
records. Amazon takes a change set as a whole or not at all, says what is wrong with it, and writes an asterisk as
\\052.
"""

import sys
import threading

from moto.route53 import models
from moto.route53.exceptions import Route53ClientError
from moto.server import main

one_at_a_time = threading.Lock()


class InvalidChangeBatch(Route53ClientError):
    def __init__(self, wrong):
        super().__init__("InvalidChangeBatch", f"[{', '.join(wrong)}]")


def change(backend, zone_id, changes):
    zone = backend.get_hosted_zone(zone_id)
    with one_at_a_time:
        after = {(record.name.lower(), record.type): record for record in zone.rrsets}
        wrong = [why for each in changes for why in step(zone, after, each)]
        if wrong:
            raise InvalidChangeBatch(wrong)
        zone.rrsets = list(after.values())


def step(zone, records, change):
    """Changes one record of the zone as it is to be; tells what is wrong with that."""
    wanted = change["ResourceRecordSet"]
    name, kind = amazons(wanted["Name"]), wanted["Type"]
    told = f"[name='{name}', type='{kind}']"
    if not f".{name}".endswith(f".{zone.name}"):
        yield f"RRSet with DNS name {name} is not permitted in zone {zone.name}"
        return
    wanted["Name"] = name
    wanted["ResourceRecords"] = [value["Value"] for value in wanted.get("ResourceRecords", [])]
    there = records.get((name, kind))
    if change["Action"] == "DELETE":
        if there is None:
            yield f"Tried to delete resource record set {told} but it was not found"
        elif (str(there.ttl), there.records) != (str(wanted.get("TTL")), wanted["ResourceRecords"]):
            yield f"Tried to delete resource record set {told} but the values provided do not match the current values"
        else:
            del records[name, kind]
        return
    if change["Action"] == "CREATE" and there is not None:
        yield f"Tried to create resource record set {told} but it already exists"
        return
    others = {other for at, other in records if at == name and other != kind}
    if "CNAME" in others or (kind == "CNAME" and others):
        conflict = f"conflicts with other records with the same DNS name in zone {zone.name}"
        yield f"RRSet of type {kind} with DNS name {name} is not permitted as it {conflict}"
        return
    records[name, kind] = models.RecordSet(wanted)


def amazons(name):
    """A name as Amazon writes it."""
    return name.rstrip(".").lower().replace("*", r"\052") + "."


models.Route53Backend.change_resource_record_sets = change

if __name__ == "__main__":
    main(["-H", "127.0.0.1", "-p", sys.argv[1]])

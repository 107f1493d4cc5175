"""What nebulad has promised, written down where no crash of it can reach.

Each object is changed by one client at a time. A change that was acknowledged must be there from then on; one that was
tried and got no clear answer may be there or not, and whichever is seen after the next restart is what counts then.
"""

import threading
from collections import Counter

RETIRED_KEPT = 3


class Register:
    """The values that something may have."""

    def __init__(self, *possible):
        self.possible = set(possible)

    def may_become(self, value):
        self.possible.add(value)

    def is_now(self, value):
        self.possible = {value}

    def __repr__(self):
        return " or ".join(sorted(str(value) for value in self.possible))


class Deployment:
    """One deployment as its client knows it."""

    def __init__(self, name, body, key=None):
        self.name, self.body, self.key = name, body, key
        self.id = None
        self.here = Register(False)
        self.desired = Register("running")
        self.replicas = Register(body.get("replicas", 1))
        self.generation = 0
        self.token = None
        self.retired = []
        # Tried without a clear answer since it was last seen after a restart.
        self.unclear = False
        self.rotating = False

    def created(self, shown):
        self.here.is_now(True)
        self.acknowledged(shown)
        self.token = shown.get("access_token")

    def acknowledged(self, shown):
        """An answer of 2xx shows the deployment with the change made."""
        self.id = shown["id"]
        self.desired.is_now(shown["desired_state"])
        self.replicas.is_now(shown["spec"]["replicas"])
        self.generation = shown["generation"]

    def rotated(self, token):
        self.rotating = False
        self.retire(self.token)
        self.token = token

    def retire(self, token):
        if token:
            self.retired = [*self.retired, token][-RETIRED_KEPT:]

    def compare(self, shown):
        """What is wrong with it after a restart; `shown` is what the API lists under its name, if anything."""
        is_here = shown is not None and shown["desired_state"] != "deleted"
        if is_here not in self.here.possible:
            yield f"{self.name} is {'back' if is_here else 'gone'}; {self}"
        self.here.is_now(is_here)
        self.unclear = False
        if not is_here:
            return
        if self.id not in (None, shown["id"]):
            yield f"{self.name} has another id: {shown['id']}; {self}"
        for what, register, value in (
            ("desired_state", self.desired, shown["desired_state"]),
            ("replicas", self.replicas, shown["spec"]["replicas"]),
        ):
            if value not in register.possible:
                yield f"{self.name}: {what} is {value}, not {register}; {self}"
        if shown["generation"] < self.generation:
            yield f"{self.name}: generation {shown['generation']} came after {self.generation}"
        self.acknowledged(shown)

    def __repr__(self):
        return f"deployment {self.name} ({self.id}, here: {self.here}, {self.desired}, {self.replicas} replicas)"


class Journal:
    """What all clients of one run were told."""

    def __init__(self):
        self.lock = threading.Lock()
        self.wrong = []
        self.acknowledged = Counter()
        self.unclear = Counter()
        self.refused = Counter()
        # What was told of each line of nebulad's own journal: no number is used twice.
        self.events = {}
        self.last_seq = {}

    def complain(self, *faults):
        with self.lock:
            self.wrong.extend(faults)

    def count(self, counter, what):
        with self.lock:
            counter[what] += 1

    def check_events(self, name, id, events):
        """A deployment's lines: ascending, none that was seen is lost or is something else now."""
        seqs = [event["seq"] for event in events]
        if seqs != sorted(set(seqs)):
            yield f"events of {name} are not in order: {seqs}"
        for event in events:
            line = (id, event["time"], event["type"])
            known = self.events.setdefault(event["seq"], line)
            if known != line:
                yield f"event {event['seq']} is {line}, and was {known}"
        before = self.last_seq.get(id, 0)
        last = max(seqs, default=0)
        if last < before:
            yield f"events of {name} end at {last}; {before} was seen"
        self.last_seq[id] = last

"""Clients that change things all the time and write down what they were told."""

import http.client
import json
import threading
import time
from collections import Counter

from journal import Deployment, Register
from processes import wait_until

ANSWER_SECONDS = 10
RETRY_SECONDS = 0.005
# A server closes connections on which nothing comes for some seconds; before that we do.
IDLE_SECONDS = 2
# A client has this many deployments of its own.
OWNED_MAX = 5
# What a client does, and how often.
ACTIONS = {"scale": 4, "stop": 3, "start": 3, "restart": 2, "rotate-token": 3, "delete": 1, "create": 2}


class Api:
    """One kept connection to nebulad; not for several threads."""

    def __init__(self, address, token):
        self.address, self.token = address, token
        self.connection = None
        self.used = 0

    def call(self, method, path, body=None, token=None, headers=None):
        """The status and the body; no status when there was no whole answer."""
        headers = {"authorization": f"Bearer {token or self.token}", **(headers or {})}
        data = None if body is None else json.dumps(body)
        try:
            self.connect()
            self.connection.request(method, path, data, headers)
            answer = self.connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException):
            self.close()
            return None, None
        return answer.status, json.loads(text) if text else None

    def connect(self):
        now = time.monotonic()
        if now - self.used > IDLE_SECONDS:
            self.close()
        self.used = now
        if self.connection is None:
            connection = http.client.HTTPConnection(self.address, timeout=ANSWER_SECONDS)
            connection.connect()
            self.connection = connection

    def is_refused(self):
        """Whether nobody listens: then nothing was sent, and nothing is unclear."""
        try:
            self.connect()
        except OSError:
            return True
        return False

    def close(self):
        if self.connection is not None:
            self.connection.close()
        self.connection = None


def is_unclear(status):
    """Whether it was done is not known."""
    return status is None or status >= 500


def all_deployments(api, seconds=20):
    """What nebulad lists, by id, once all of it is loaded."""

    def look():
        status, page = api.call("GET", "/api/v1/deployments?limit=500")
        assert status == 200 and page["next_cursor"] is None, f"{status}: {page}"
        return all("spec" in each for each in page["data"]) and page

    return wait_until("all deployments are loaded", look, seconds)["data"]


def by_name(listed):
    names = Counter(each["name"] for each in listed)
    assert set(names.values()) <= {1}, f"names are not unique: {names}"
    return {each["name"]: each for each in listed}


class Owner:
    """The one who changes some deployments, and knows what it was told of each."""

    def __init__(self, name, journal, rng, replicas_max=5, body=None, owned_max=OWNED_MAX):
        self.name, self.journal, self.rng = name, journal, rng
        self.replicas_max, self.owned_max = replicas_max, owned_max
        # By default it wants what no node of a test has, so that nothing is run for it.
        self.body = body or {"model": "demo", "runtime": "sim", "gpu": {"count": 1}}
        self.deployments = []
        self.made = 0

    def live(self):
        return [each for each in self.deployments if each.here.possible == {True} and not each.unclear]

    def act(self, api):
        """Makes one change."""
        owned = self.live()
        action = self.rng.choices(list(ACTIONS), ACTIONS.values())[0]
        if action == "create" or not owned:
            if len([each for each in self.deployments if True in each.here.possible]) < self.owned_max:
                self.create(api)
                return
            action = "scale"
        if owned:
            getattr(self, action.replace("-", "_"))(api, self.rng.choice(owned))

    def create(self, api):
        self.made += 1
        name = f"{self.name}-{self.made}"
        body = {**self.body, "name": name, "replicas": self.rng.randint(1, self.replicas_max)}
        key = f"key-{name}" if self.rng.random() < 0.5 else None
        deployment = Deployment(name, body, key)
        deployment.here.may_become(True)
        self.deployments.append(deployment)
        self.send_create(api, deployment)

    def send_create(self, api, deployment):
        headers = {"idempotency-key": deployment.key} if deployment.key else {}
        status, shown = api.call("POST", "/api/v1/deployments", deployment.body, headers=headers)
        if status in (200, 201):
            if deployment.id not in (None, shown["id"]):
                fault = f"{deployment} was made again under its key as {shown['id']}"
                self.journal.complain(fault)
            if status == 201 and deployment.here.possible == {True}:
                self.journal.complain(f"{deployment} was made twice")
            deployment.created(shown)
        self.note("create", deployment, status, shown)

    def note(self, action, deployment, status, shown):
        journal = self.journal
        if status is not None and 200 <= status < 300:
            journal.count(journal.acknowledged, action)
        elif is_unclear(status):
            deployment.unclear = True
            journal.count(journal.unclear, action)
        else:
            # Everything a client does here is right if what it was told is true.
            deployment.unclear = True
            journal.count(journal.refused, action)
            journal.complain(f"{action} of {deployment} was answered {status}: {shown}")

    def change(self, api, deployment, action, body=None):
        status, shown = api.call("POST", f"/api/v1/deployments/{deployment.name}/{action}", body)
        self.note(action, deployment, status, shown)
        if status == 202:
            deployment.acknowledged(shown)
            return shown
        return None

    def scale(self, api, deployment):
        replicas = self.rng.randint(1, self.replicas_max)
        deployment.replicas.may_become(replicas)
        shown = self.change(api, deployment, "scale", {"replicas": replicas})
        self.expect(shown, deployment, replicas == (shown and shown["spec"]["replicas"]))

    def stop(self, api, deployment):
        deployment.desired.may_become("stopped")
        shown = self.change(api, deployment, "stop")
        self.expect(shown, deployment, deployment.desired.possible == {"stopped"})

    def start(self, api, deployment):
        deployment.desired.may_become("running")
        shown = self.change(api, deployment, "start")
        self.expect(shown, deployment, deployment.desired.possible == {"running"})

    def restart(self, api, deployment):
        deployment.desired.may_become("running")
        generation = deployment.generation
        shown = self.change(api, deployment, "restart")
        self.expect(shown, deployment, deployment.generation > generation)

    def rotate_token(self, api, deployment):
        deployment.rotating = True
        shown = self.change(api, deployment, "rotate-token")
        if shown:
            deployment.rotated(shown["access_token"])

    def delete(self, api, deployment):
        deployment.here.may_become(False)
        status, shown = api.call("DELETE", f"/api/v1/deployments/{deployment.name}")
        self.note("delete", deployment, status, shown)
        if status == 202:
            deployment.here.is_now(False)

    def expect(self, shown, deployment, holds):
        if shown and not holds:
            self.journal.complain(f"an acknowledged change is not in its answer: {deployment} {shown}")

    # --- after a restart, while nothing is changed

    def check(self, api, listed):
        """Compares what is there with what was promised."""
        for deployment in list(self.deployments):
            self.journal.complain(*deployment.compare(listed.get(deployment.name)))
            if deployment.here.possible == {False}:
                if deployment.name not in listed:
                    self.deployments.remove(deployment)
                continue
            if deployment.key:
                self.send_create(api, deployment)
            self.check_tokens(api, deployment)

    def check_tokens(self, api, deployment):
        for token in deployment.retired:
            if accepts(api, deployment.name, token):
                self.journal.complain(f"{deployment} takes a token that was rotated away")
        if deployment.token and not accepts(api, deployment.name, deployment.token):
            if not deployment.rotating:
                self.journal.complain(f"{deployment} refuses its token")
            deployment.retire(deployment.token)
            deployment.token = None
        deployment.rotating = False


def accepts(api, model, token):
    """Whether the gateway takes a token, whatever it then can do."""
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
    status, _ = api.call("POST", "/v1/chat/completions", body, token=token)
    assert status is not None, "the gateway does not answer"
    return status != 401


class NodeOwner:
    """Takes a node out of scheduling and gives it back."""

    def __init__(self, name, journal, rng):
        self.name, self.journal, self.rng = name, journal, rng
        self.scheduling = Register("schedulable")

    def act(self, api):
        action, becomes = self.rng.choice([("cordon", "cordoned"), ("uncordon", "schedulable")])
        self.scheduling.may_become(becomes)
        status, shown = api.call("POST", f"/api/v1/nodes/{self.name}/{action}")
        if status == 200:
            self.scheduling.is_now(becomes)
            self.journal.count(self.journal.acknowledged, action)
        else:
            self.journal.count(self.journal.unclear, action)
            if not is_unclear(status):
                self.journal.complain(f"{action} of {self.name} was answered {status}: {shown}")

    def check(self, api, _):
        status, shown = api.call("GET", f"/api/v1/nodes/{self.name}")
        if status != 200:
            self.journal.complain(f"node {self.name} is gone: {status} {shown}")
        elif shown["scheduling"] not in self.scheduling.possible:
            self.journal.complain(f"node {self.name} is {shown['scheduling']}, not {self.scheduling}")
        else:
            self.scheduling.is_now(shown["scheduling"])


class Racers:
    """Two clients that want the same new names at the same time; half of them under one key."""

    def __init__(self, journal, rng):
        self.journal, self.rng = journal, rng
        self.round = 0
        self.told = {}
        self.lock = threading.Lock()

    def act(self, api, racer, turn):
        name = f"raced-{self.round}-{turn}"
        body = {"model": "demo", "runtime": "sim", "gpu": {"count": 1}, "name": name}
        headers = {"idempotency-key": name} if turn % 2 else {}
        status, shown = api.call("POST", "/api/v1/deployments", body, headers=headers)
        journal = self.journal
        with self.lock:
            entry = self.told.setdefault(name, [])
            if status in (200, 201):
                entry.append((status, shown["id"]))
        if is_unclear(status):
            journal.count(journal.unclear, "create (raced)")
        elif status in (200, 201):
            journal.count(journal.acknowledged, "create (raced)")
        elif status != 409:
            # 409: the name is taken, or a request under the same key is under way.
            journal.complain(f"racer {racer} wanted {name} and was answered {status}: {shown}")

    def check(self, api, listed):
        for name, told in self.told.items():
            made = [id for status, id in told if status == 201]
            ids = {id for _, id in told}
            if len(made) > 1 or len(ids) > 1:
                self.journal.complain(f"{name} was made more than once: {told}")
            if ids and name not in listed:
                self.journal.complain(f"{name} is gone: {told}")
            if ids and name in listed and listed[name]["id"] not in ids:
                self.journal.complain(f"{name} is {listed[name]['id']}, and was told as {told}")
        for name in [name for name in listed if name.startswith("raced-")]:
            status, shown = api.call("DELETE", f"/api/v1/deployments/{name}")
            if status != 202:
                self.journal.complain(f"{name} cannot be deleted: {status} {shown}")
        self.told = {}
        self.round += 1


class Clients:
    """Threads that act whenever they are let."""

    def __init__(self, address, token):
        self.address, self.token = address, token
        self.open, self.ended = threading.Event(), threading.Event()
        self.busy = threading.Condition()
        self.acting = 0
        self.threads, self.faults = [], []

    def add(self, act):
        """`act(api, turn)` is called again and again; turns begin at 0 each time the clients are let go."""
        thread = threading.Thread(target=self.work, args=(act,), daemon=True)
        self.threads.append(thread)
        thread.start()

    def work(self, act):
        api = Api(self.address, self.token)
        turn = 0
        while not self.ended.is_set():
            if not self.enter():
                turn = 0
                self.open.wait(1)
                continue
            try:
                if api.is_refused():
                    self.ended.wait(RETRY_SECONDS)
                    continue
                act(api, turn)
            except Exception as fault:  # noqa: BLE001: a fault of the test itself must end it
                self.faults.append(fault)
                self.ended.set()
            finally:
                self.leave()
            turn += 1
        api.close()

    def enter(self):
        with self.busy:
            if not self.open.is_set():
                return False
            self.acting += 1
            return True

    def leave(self):
        with self.busy:
            self.acting -= 1
            self.busy.notify_all()

    def go(self):
        self.open.set()

    def rest(self):
        """Returns when no request is under way any more."""
        with self.busy:
            self.open.clear()
            idle = self.busy.wait_for(lambda: self.acting == 0, ANSWER_SECONDS * 2)
        assert idle, "a client does not come to rest"
        if self.faults:
            raise self.faults[0]

    def end(self):
        self.ended.set()
        self.open.set()
        for thread in self.threads:
            thread.join(ANSWER_SECONDS * 2)

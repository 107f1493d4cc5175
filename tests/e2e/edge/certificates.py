"""Certificates of a test's own authority, an ACME server that only counts who asks, and clients that trust nobody else."""

import datetime
import http.server
import json
import socket
import ssl
import threading

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, StreamEnded, StreamReset

from caddy import HTTPS_PORT

LIFE = datetime.timedelta(days=2)
# Clocks of client and server are the same one; this is for the second in which both look.
EARLIER = datetime.timedelta(minutes=5)
ASK_SECONDS = 20


class Authority:
    """A certificate authority that lives as long as a test."""

    def __init__(self, directory):
        self.directory = directory
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "an authority of a test")])
        begun = self._begun(self.name, self.key.public_key())
        begun = begun.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.root = self._write("root.crt", begun.sign(self.key, hashes.SHA256()))

    def certificate(self, *names):
        """A certificate for these names and its key, as Caddy's `load_files` takes them."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0])])
        begun = self._begun(subject, key.public_key())
        begun = begun.add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        stem = names[0].replace("*", "any")
        certificate = self._write(f"{stem}.crt", begun.sign(self.key, hashes.SHA256()))
        file = self.directory / f"{stem}.key"
        file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return {"certificate": str(certificate), "key": str(file)}

    def _begun(self, subject, public_key):
        now = datetime.datetime.now(datetime.timezone.utc)
        begun = x509.CertificateBuilder().subject_name(subject).issuer_name(self.name).public_key(public_key)
        begun = begun.serial_number(x509.random_serial_number())
        return begun.not_valid_before(now - EARLIER).not_valid_after(now + LIFE)

    def _write(self, name, certificate):
        file = self.directory / name
        file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return file


class CountingAcme:
    """An ACME server that gives nothing to anybody, on loopback: who asks it is counted, and asks nobody in the world."""

    def __init__(self):
        self.asked = asked = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append(self.path)
                self.send_error(503)

            do_HEAD = do_POST = do_GET

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    @property
    def issuer(self):
        """As one of Caddy's issuers."""
        return {"module": "acme", "ca": f"http://127.0.0.1:{self.server.server_port}/directory"}

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(10)


class Client:
    """An HTTPS client that finds every name on this machine, speaks one version of HTTP and trusts one root."""

    def __init__(self, root, http2):
        context = ssl.create_default_context(cafile=str(root))
        self.client = httpx.Client(
            verify=context, http1=not http2, http2=http2, trust_env=False, timeout=ASK_SECONDS, follow_redirects=False
        )
        self.version = "HTTP/2" if http2 else "HTTP/1.1"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.close()

    def request(self, host, path, body=None):
        """A request that names the host in its TLS handshake and in its head."""
        url = f"https://127.0.0.1:{HTTPS_PORT}{path}"
        method = "GET" if body is None else "POST"
        extensions = {"sni_hostname": host}
        return self.client.build_request(method, url, json=body, headers={"host": host}, extensions=extensions)

    def ask(self, host, path, body=None):
        answer = self.client.send(self.request(host, path, body))
        assert answer.http_version == self.version, answer.http_version
        return answer

    def stream(self, host, path, body, headers=None):
        """An answer of which only the head was read; to be closed by whoever asked, and its iterator kept until then."""
        request = self.request(host, path, body)
        request.headers.update(headers or {})
        answer = self.client.send(request, stream=True)
        assert answer.http_version == self.version, answer.http_version
        return answer


class Http2Stream:
    """One stream of HTTP/2 by hand, as it is ended alone and its connection goes on: httpx only ever ends both."""

    def __init__(self, root, host, path, body, headers):
        context = ssl.create_default_context(cafile=str(root))
        context.set_alpn_protocols(["h2"])
        plain = socket.create_connection(("127.0.0.1", HTTPS_PORT), timeout=ASK_SECONDS)
        self.socket = context.wrap_socket(plain, server_hostname=host)
        assert self.socket.selected_alpn_protocol() == "h2"
        self.http2 = H2Connection(H2Configuration(header_encoding="utf-8"))
        self.http2.initiate_connection()
        self.id = self.http2.get_next_available_stream_id()
        head = {":method": "POST", ":scheme": "https", ":authority": host, ":path": path, "content-type": "application/json"}
        self.http2.send_headers(self.id, list((head | headers).items()))
        self.http2.send_data(self.id, json.dumps(body).encode(), end_stream=True)
        self.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def flush(self):
        self.socket.sendall(self.http2.data_to_send())

    def until(self, words):
        """Reads until the body has brought these bytes."""
        body = b""
        while words not in body:
            data = self.socket.recv(65536)
            assert data, f"the connection ends; of the body there was {body!r}"
            for event in self.http2.receive_data(data):
                assert not isinstance(event, (StreamEnded, StreamReset)), f"{event} after {body!r}"
                body += event.data if isinstance(event, DataReceived) else b""
            self.flush()

    def reset(self):
        """Ends the stream and nothing else, as a browser does."""
        self.http2.reset_stream(self.id, ErrorCodes.CANCEL)
        self.flush()


def leads(root, host, path, body=None):
    """Whether a host is answered well by now, with a certificate that is right; not, while nothing listens."""
    try:
        with Client(root, http2=True) as client:
            return client.ask(host, path, body).status_code == 200
    except httpx.TransportError:
        return False

"""A gRPC client that knows nothing beforehand: it learns services and messages by server reflection."""

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

CALL_SECONDS = 10


class Client:
    def __init__(self, address):
        # No proxy of the surroundings stands between a test and its own loopback.
        self.channel = grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)])
        self.database = ProtoReflectionDescriptorDatabase(self.channel)
        self.pool = descriptor_pool.DescriptorPool(self.database)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.channel.close()

    def services(self):
        return set(self.database.get_services())

    def method(self, name):
        service, method = name.split("/")
        return self.pool.FindServiceByName(service).methods_by_name[method]

    def call(self, name, request):
        """Calls `package.Service/Method` with a message written as JSON; every field must be known."""
        stub, read = self.stub(name, self.channel.unary_unary)
        return read(stub(self.message(name, request), timeout=CALL_SECONDS))

    def stream(self, name, request, seconds=CALL_SECONDS):
        """Calls a method that answers with many messages, and yields them."""
        stub, read = self.stub(name, self.channel.unary_stream)
        yield from map(read, stub(self.message(name, request), timeout=seconds))

    def converse(self, name, requests, seconds=CALL_SECONDS):
        """Calls a method with streams both ways: the call, which yields messages, and what reads them."""
        stub, read = self.stub(name, self.channel.stream_stream)
        return stub((self.message(name, request) for request in requests), timeout=seconds), read

    def stub(self, name, kind):
        """What calls a method, and what turns its messages into JSON."""
        answers = message_factory.GetMessageClass(self.method(name).output_type)
        stub = kind(
            f"/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answers.FromString,
        )
        return stub, as_json

    def message(self, name, request):
        kind = message_factory.GetMessageClass(self.method(name).input_type)
        return json_format.ParseDict(request, kind(), descriptor_pool=self.pool)


def as_json(message):
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )

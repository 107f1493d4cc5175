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
        method = self.method(name)
        of = lambda kind: message_factory.GetMessageClass(kind)
        stub = self.channel.unary_unary(
            f"/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=of(method.output_type).FromString,
        )
        message = json_format.ParseDict(request, of(method.input_type)(), descriptor_pool=self.pool)
        answer = stub(message, timeout=CALL_SECONDS)
        return json_format.MessageToDict(
            answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )

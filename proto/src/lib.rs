//! The two gRPC protocols of Nebula: `PlatformService` (served by nebulad) and `AgentService` (served by
//! nebula-agent), generated from the files in `proto/proto`.

#![allow(clippy::all, clippy::pedantic, missing_docs, reason = "generated code")]

tonic::include_proto!("proto");

/// The encoded descriptor set of both services, for server reflection.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));

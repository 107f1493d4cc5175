//! The gRPC side: `PlatformService` for agents, and the client of their `AgentService`.

pub mod agent_client;
mod convert;
mod error;
mod guard;
mod platform;
pub mod server;

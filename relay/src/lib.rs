//! One HTTP/1.1 exchange from an actix-web request to an upstream and back: the data path of nebulad's gateway
//! and of the agent's proxy.
//!
//! * [`Client`]: connections of one worker thread, kept open for a few seconds, replaced once when the upstream
//!   had already closed the one that was taken.
//! * [`Upstream`]: an answer whose head has arrived; its body is collected or relayed.
//! * [`RelayBody`]: polls the upstream inside the response body. A slow reader slows the upstream down, and a
//!   reader that leaves drops the body and with it the upstream's connection.
//! * [`Filter`]: what meters or translates a body on its way.
//! * [`Unread`]: ends the connection of a request whose body nobody reads.
//!
//! The client is our own rather than a library's because the relay has to know what libraries hide: whether a
//! connection was a reused one, whether a body ended or was cut, and what arrived in one read.

mod answer;
mod call;
mod client;
mod connection;
mod error;
mod filter;
mod framing;
mod headers;
mod pool;
mod relay;
mod request;
mod sse;
mod unread;
mod upstream;

pub use call::{Call, CallBody};
pub use client::Client;
pub use error::{Broken, Truncated, UpstreamError};
pub use filter::{Filter, Incoming, Unfinished};
pub use headers::PROXY_ERROR;
pub use relay::{End, RelayBody};
pub use request::{HeaderLines, IllegalValue, RequestHead};
pub use unread::Unread;
pub use upstream::Upstream;

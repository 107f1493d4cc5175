//! The edge: what is in front of the nodes. Each part implements [`crate::ports::Edge`]: it compares what it finds
//! there with what is wanted, and changes only what is ours.

pub mod caddy;
pub mod route53;

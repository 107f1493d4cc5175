//! What can be typed about the edge.

use clap::{Subcommand, ValueEnum};

#[derive(Debug, Subcommand)]
pub(crate) enum EdgeCommand {
    /// Show how far each part is from what it should be, and what stands in the way
    Status,
    /// Show what would be changed now, without changing it
    Plan {
        /// Which part [default: all that are configured]
        #[arg(value_enum)]
        edge: Option<EdgeName>,
    },
}

/// A part of the edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum EdgeName {
    /// The reverse proxy
    Caddy,
    /// The DNS zone
    Route53,
}

impl EdgeName {
    /// As the API says it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Caddy => "caddy",
            Self::Route53 => "route53",
        }
    }
}

//! What can be typed about aliases.

use clap::{Args, Subcommand};

/// The largest weight that nebulad takes.
const WEIGHT_MAX: u32 = 10_000;

#[derive(Debug, Subcommand)]
pub(crate) enum AliasCommand {
    /// Make an alias, or change where its requests go
    Set(SetAliasArgs),
    /// List the aliases
    #[command(visible_alias = "ls")]
    List,
    /// Show one alias and the deployments behind it
    Get {
        /// The alias
        name: String,
    },
    /// Delete an alias; its deployments stay (asks first when standard input is a terminal)
    #[command(visible_alias = "rm")]
    Delete {
        /// The alias
        name: String,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct SetAliasArgs {
    /// The name that clients use as the model
    pub(crate) name: String,
    /// A deployment and its weight, such as chat-v2=10 (1 to 16 of them); these take the place of those before
    #[arg(required = true, value_name = "DEPLOYMENT=WEIGHT", value_parser = target)]
    pub(crate) targets: Vec<(String, u32)>,
    /// The deployment that answers when none of the others can [default: as it was]
    #[arg(long, value_name = "DEPLOYMENT")]
    pub(crate) fallback: Option<String>,
    /// No deployment answers in their place
    #[arg(long, conflicts_with = "fallback")]
    pub(crate) no_fallback: bool,
}

fn target(text: &str) -> Result<(String, u32), String> {
    let (name, weight) = text.rsplit_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(how)?;
    let weight = weight.parse().ok().filter(|weight| *weight <= WEIGHT_MAX).ok_or_else(how)?;
    Ok((name.to_owned(), weight))
}

fn how() -> String {
    format!("write it as DEPLOYMENT=WEIGHT with a whole number from 0 to {WEIGHT_MAX}")
}

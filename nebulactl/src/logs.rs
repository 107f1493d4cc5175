//! `logs`: the output of a deployment's runtime.

use std::time::Duration;

use reqwest::Url;

use crate::api::Api;
use crate::cli::LogsArgs;
use crate::deployments;
use crate::failure::Result;
use crate::output::Output;

/// How long a log that is not followed may take to go on.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// The most that is read of a log's last lines.
const TAIL_MAX_BYTES: usize = 64 << 10;

/// Prints a log as it comes; with `--follow` until nebulad or the user ends it.
pub(crate) async fn run(api: &Api, output: &Output, args: &LogsArgs) -> Result<()> {
    let mut url = api.url(&deployments::path(&args.name, &["logs"]))?;
    let tail = args.tail.map(|lines| lines.to_string());
    let switch = |on: bool| on.then_some("true");
    let query = [
        ("tail", tail.as_deref()),
        ("follow", switch(args.follow)),
        ("replica", args.replica.as_deref()),
        ("previous", switch(args.previous)),
    ];
    append(&mut url, &query);
    let mut response = api.open(&url).await?;
    let patience = (!args.follow).then_some(SILENCE_MAX);
    while let Some(piece) = api.piece(&mut response, patience).await? {
        output.bytes(&piece)?;
    }
    Ok(())
}

/// The last `lines` lines of a log.
pub(crate) async fn tail(api: &Api, name: &str, lines: &str) -> Result<String> {
    let mut url = api.url(&deployments::path(name, &["logs"]))?;
    append(&mut url, &[("tail", Some(lines))]);
    let mut response = api.open(&url).await?;
    let mut text = Vec::new();
    while let Some(piece) = api.piece(&mut response, Some(SILENCE_MAX)).await? {
        text.extend_from_slice(&piece);
        if text.len() > TAIL_MAX_BYTES {
            text.truncate(TAIL_MAX_BYTES);
            break;
        }
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn append(url: &mut Url, query: &[(&str, Option<&str>)]) {
    for (key, value) in query {
        if let Some(value) = value {
            url.query_pairs_mut().append_pair(key, value);
        }
    }
}

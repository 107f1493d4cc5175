//! Requests to Route 53 through Amazon's SDK, which signs them: at our pace, each one bounded in time, never
//! repeated by the SDK.

use std::error::Error;
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_route53::Client;
use aws_sdk_route53::config::http::HttpResponse;
use aws_sdk_route53::config::interceptors::AfterDeserializationInterceptorContextRef;
use aws_sdk_route53::config::retry::RetryConfig;
use aws_sdk_route53::config::timeout::TimeoutConfig;
use aws_sdk_route53::config::{
    Config, ConfigBag, Credentials, Intercept, Region, RuntimeComponents, SharedCredentialsProvider,
};
use aws_sdk_route53::error::{BoxError, BuildError, ProvideErrorMetadata, SdkError};
use aws_sdk_route53::types::{Change, ChangeAction, ChangeBatch, ResourceRecord, ResourceRecordSet, RrType};
use nebula_core::clock::Clock;
use tokio::sync::OnceCell;

use super::Route53Options;
use super::names::{Names, from_listed};
use super::pace::Pace;
use super::records::{Action, Body, Group, Kind, Op, OpKind, Records};
use super::trouble::Failure;

/// For a connection to Route 53.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
/// For one request, to the last byte of its answer.
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);
/// For one request when credentials have to be fetched first.
const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// Record sets per page of a listing; Route 53 gives no more.
const PAGE: i32 = 300;
/// The most pages of a listing: 60,000 record sets, 100 seconds at our pace.
const PAGES_MAX: usize = 200;

/// One hosted zone.
#[derive(Debug)]
pub(super) struct Zone {
    options: Route53Options,
    /// Made at the first request, so that a start waits for nothing.
    client: OnceCell<Client>,
    pace: Mutex<Pace>,
    clock: Clock,
}

/// Where a listing goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Start {
    name: String,
    kind: Option<RrType>,
    identifier: Option<String>,
}

impl Zone {
    /// Does nothing yet.
    pub(super) fn new(options: Route53Options, clock: Clock) -> Self {
        Self { options, client: OnceCell::new(), pace: Mutex::default(), clock }
    }

    /// Everything that matters to us at the domain and below it.
    pub(super) async fn list(&self, names: &Names) -> Result<Records, Failure> {
        let mut records = Records::default();
        let mut start = Start { name: names.domain().to_owned(), kind: None, identifier: None };
        for _ in 0..PAGES_MAX {
            let (sets, next) = self.page(&start, PAGE).await?;
            for set in sets {
                let name = from_listed(&set.name);
                if names.is_past(&name) {
                    return Ok(records);
                }
                if let Some(kind) = kind(&set.r#type).filter(|_| names.covers(&name)) {
                    records.insert(name, kind, body(set));
                }
            }
            match next {
                None => return Ok(records),
                Some(next) if next == start => break,
                Some(next) => start = next,
            }
        }
        Err(Failure::Unmade { text: format!("the listing does not end after {PAGES_MAX} pages") })
    }

    /// Asks for a single record set.
    pub(super) async fn glance(&self, names: &Names) -> Result<(), Failure> {
        let start = Start { name: names.domain().to_owned(), kind: None, identifier: None };
        self.page(&start, 1).await.map(drop)
    }

    async fn page(
        &self,
        start: &Start,
        most: i32,
    ) -> Result<(Vec<ResourceRecordSet>, Option<Start>), Failure> {
        let client = self.client().await;
        let request = client
            .list_resource_record_sets()
            .hosted_zone_id(&self.options.zone_id)
            .start_record_name(&start.name)
            .set_start_record_type(start.kind.clone())
            .set_start_record_identifier(start.identifier.clone())
            .max_items(most);
        let page = self.call(request.send()).await?;
        if !page.is_truncated {
            return Ok((page.resource_record_sets, None));
        }
        let Some(name) = page.next_record_name else {
            // It goes on and does not say where: half of a listing is none.
            return Err(Failure::Nonsense { status: 200 });
        };
        let next = Start { name, kind: page.next_record_type, identifier: page.next_record_identifier };
        Ok((page.resource_record_sets, Some(next)))
    }

    /// Makes all the changes, or none.
    pub(super) async fn change(&self, groups: &[Group]) -> Result<(), Failure> {
        let unmade = |error: BuildError| Failure::Unmade { text: error.to_string() };
        let changes: Result<Vec<Change>, BuildError> =
            groups.iter().flat_map(|group| &group.ops).map(change).collect();
        let batch =
            ChangeBatch::builder().set_changes(Some(changes.map_err(unmade)?)).build().map_err(unmade)?;
        let client = self.client().await;
        let request =
            client.change_resource_record_sets().hosted_zone_id(&self.options.zone_id).change_batch(batch);
        self.call(request.send()).await.map(drop)
    }

    /// Waits for our turn, sends, and waits for the answer.
    async fn call<T, E>(
        &self,
        request: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<T, Failure>
    where
        E: Error + ProvideErrorMetadata + 'static,
    {
        let wait = self.pace.lock().unwrap_or_else(PoisonError::into_inner).wait(self.clock.now());
        tokio::time::sleep(wait).await;
        match tokio::time::timeout(CALL_DEADLINE, request).await {
            Err(_) => Err(Failure::Timeout),
            Ok(Err(error)) => Err(failure(&error)),
            Ok(Ok(answer)) => Ok(answer),
        }
    }

    async fn client(&self) -> &Client {
        self.client.get_or_init(|| self.connect()).await
    }

    async fn connect(&self) -> Client {
        let region = Region::new(self.options.region.clone());
        let credentials = match &self.options.credentials {
            Some((key, secret)) => {
                SharedCredentialsProvider::new(Credentials::new(key, secret.expose(), None, None, "flags"))
            }
            None => {
                let chain = DefaultCredentialsChain::builder().region(region.clone());
                SharedCredentialsProvider::new(chain.build().await)
            }
        };
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_DEADLINE)
            .operation_timeout(REQUEST_DEADLINE)
            .build();
        let config = Config::builder()
            .behavior_version_latest()
            .region(region)
            .credentials_provider(credentials)
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts)
            .interceptor(WholeAnswers);
        let config = match &self.options.endpoint_url {
            Some(url) => config.endpoint_url(url),
            None => config,
        };
        Client::from_conf(config.build())
    }
}

fn kind(listed: &RrType) -> Option<Kind> {
    match listed {
        RrType::A => Some(Kind::A),
        RrType::Aaaa => Some(Kind::Aaaa),
        RrType::Cname => Some(Kind::Cname),
        RrType::Txt => Some(Kind::Txt),
        _ => None,
    }
}

fn body(set: ResourceRecordSet) -> Body {
    let is_special = set.set_identifier.is_some()
        || set.health_check_id.is_some()
        || set.traffic_policy_instance_id.is_some();
    if is_special {
        return Body::Special;
    }
    if set.alias_target.is_some() {
        return Body::Alias;
    }
    let values = set.resource_records.unwrap_or_default().into_iter().map(|record| record.value).collect();
    Body::plain(set.ttl.and_then(|ttl| u64::try_from(ttl).ok()).unwrap_or_default(), values)
}

fn change(op: &Op) -> Result<Change, BuildError> {
    let action = match op.action {
        Action::Create => ChangeAction::Create,
        Action::Upsert => ChangeAction::Upsert,
        Action::Delete => ChangeAction::Delete,
    };
    let kind = match op.kind {
        OpKind::A => RrType::A,
        OpKind::Txt => RrType::Txt,
    };
    let records: Result<Vec<ResourceRecord>, BuildError> =
        op.values.iter().map(|value| ResourceRecord::builder().value(value).build()).collect();
    let set = ResourceRecordSet::builder()
        .name(&op.name)
        .r#type(kind)
        .ttl(i64::try_from(op.ttl).unwrap_or(i64::MAX))
        .set_resource_records(Some(records?))
        .build()?;
    Change::builder().action(action).resource_record_set(set).build()
}

/// Refuses an answer that is not a whole document: the SDK takes what it finds in half of one, and a listing in which
/// records are missing looks like a zone in which they are.
#[derive(Debug)]
struct WholeAnswers;

impl Intercept for WholeAnswers {
    fn name(&self) -> &'static str {
        "WholeAnswers"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let answer = context.response();
        let is_whole = !answer.status().is_success() || answer.body().bytes().is_some_and(is_whole);
        if is_whole { Ok(()) } else { Err("the answer is not a whole XML document".into()) }
    }
}

/// Whether an XML document ends with the element that it begins with.
fn is_whole(document: &[u8]) -> bool {
    let text = String::from_utf8_lossy(document);
    let is_name = |c: char| c.is_ascii_alphanumeric();
    let mut starts = text.match_indices('<').map(|(at, _)| text.get(at + 1..).unwrap_or_default());
    let root = starts.find(|rest| rest.starts_with(is_name));
    let root = root.and_then(|rest| rest.split(|c| !is_name(c)).next()).unwrap_or_default();
    !root.is_empty() && text.trim_end().ends_with(&format!("</{root}>"))
}

/// What the SDK's error says of what happened.
fn failure<E: Error + ProvideErrorMetadata + 'static>(error: &SdkError<E, HttpResponse>) -> Failure {
    if let Some(error) = cause::<CredentialsError>(error) {
        return Failure::Credentials { text: whole_text(error) };
    }
    match error {
        SdkError::TimeoutError(_) => Failure::Timeout,
        SdkError::DispatchFailure(error) if error.is_timeout() => Failure::Timeout,
        SdkError::DispatchFailure(_) => Failure::Connection { text: last_text(error) },
        SdkError::ServiceError(inner) => told(inner.raw(), inner.err().code(), inner.err().message()),
        SdkError::ResponseError(inner) => told(inner.raw(), None, None),
        _ => Failure::Unmade { text: last_text(error) },
    }
}

/// What an answer says that is an error.
fn told(answer: &HttpResponse, code: Option<&str>, message: Option<&str>) -> Failure {
    let status = answer.status().as_u16();
    let body = answer.body().bytes().map(String::from_utf8_lossy).unwrap_or_default();
    // A refused change set may come in a form of its own, with a list of messages.
    let code = code.or_else(|| body.contains("<InvalidChangeBatch").then_some("InvalidChangeBatch"));
    match code {
        None => Failure::Nonsense { status },
        Some(code) => {
            let text = message.map_or_else(|| messages(&body), str::to_owned);
            Failure::Code { status, code: code.to_owned(), text }
        }
    }
}

/// The text of all `<Message>` elements.
fn messages(body: &str) -> String {
    let texts = body.split("<Message>").skip(1).filter_map(|rest| rest.split("</Message>").next());
    texts.collect::<Vec<_>>().join("; ").replace("&apos;", "'").replace("&quot;", "\"")
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

fn cause<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

/// The innermost cause: the outer ones name the SDK's own steps.
fn last_text(error: &(dyn Error + 'static)) -> String {
    causes(error).last().map(ToString::to_string).unwrap_or_default()
}

/// The causes from the outermost to the innermost.
fn whole_text(error: &(dyn Error + 'static)) -> String {
    causes(error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

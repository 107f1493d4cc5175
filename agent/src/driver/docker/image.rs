//! Having an image: it is pulled when it is not there, once for all who want it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bollard::models::CreateImageInfo;
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, FutureExt as _, Shared, WeakShared};

use super::credentials::{self, Login};
use super::engine::{CALL_LIMIT, EngineError};
use super::progress::{Line, Pull};
use super::refusal::{self, Fault};
use super::{Docker, engine};
use crate::progress::Reporter;

/// Tries of one pull.
const TRIES: u32 = 3;
/// What has come is unpacked without a word for as many times as long: one large layer takes a slow disk minutes.
const UNPACKING: u32 = 10;
/// Longer names are none.
const NAME_MAX: usize = 500;

/// Why there is no image: one line for people that says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("image_pull: {message}")]
pub(crate) struct ImageError {
    message: String,
    passing: bool,
}

impl ImageError {
    fn lasting(message: String) -> Self {
        Self { message, passing: false }
    }

    fn passing(message: String) -> Self {
        Self { message, passing: true }
    }
}

/// The pulls under way, by image.
pub(super) type Flights = Mutex<HashMap<String, Flight>>;

type Bringing = BoxFuture<'static, Result<(), ImageError>>;

/// One pull under way. It goes on as long as somebody waits for it.
pub(super) struct Flight {
    progress: Reporter,
    bringing: WeakShared<Bringing>,
}

impl Flight {
    /// Whether anybody waits for it.
    pub(super) fn is_wanted(&self) -> bool {
        self.bringing.upgrade().is_some()
    }
}

/// An image's name, taken apart as the Engine wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    /// As the user wrote it.
    whole: String,
    name: String,
    /// Its tag or its digest.
    tag: String,
}

impl Docker {
    /// Pulls an image if it is not there, and tells how far it is. Many may ask for the same one at the same time.
    ///
    /// # Errors
    /// When it cannot be had, after all tries that make sense.
    pub(crate) async fn ensure_image(&self, image: &str, reporter: &Reporter) -> Result<(), ImageError> {
        let reference = Reference::parse(image)?;
        let (progress, mut bringing) = self.flight(reference);
        let mut told = progress.subscribe();
        loop {
            tokio::select! {
                result = &mut bringing => {
                    reporter.clear();
                    return result;
                }
                Ok(()) = told.changed() => {
                    let newest = told.borrow_and_update().clone();
                    reporter.say(newest.percent, newest.message);
                }
            }
        }
    }

    /// Joins the flight of an image, or begins one.
    fn flight(&self, reference: Reference) -> (Reporter, Shared<Bringing>) {
        let mut flights = self.0.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(&reference.whole)
            && let Some(bringing) = flight.bringing.upgrade()
        {
            return (flight.progress.clone(), bringing);
        }
        flights.retain(|_, flight| flight.is_wanted());
        let (progress, image) = (Reporter::default(), reference.whole.clone());
        let (docker, told) = (self.clone(), progress.clone());
        let bringing = async move { docker.bring(&reference, &told).await }.boxed().shared();
        if let Some(weak) = bringing.downgrade() {
            flights.insert(image, Flight { progress: progress.clone(), bringing: weak });
        }
        (progress, bringing)
    }

    async fn bring(&self, reference: &Reference, progress: &Reporter) -> Result<(), ImageError> {
        let mut wait = self.0.patience.retry_after;
        let mut tries = 1;
        loop {
            let error = match self.try_bring(reference, progress).await {
                Ok(()) => return Ok(()),
                Err(error) if !error.passing => return Err(error),
                Err(error) => error,
            };
            if tries == TRIES {
                return Err(ImageError {
                    message: format!("{}; tried {TRIES} times", error.message),
                    ..error
                });
            }
            tracing::warn!(image = reference.whole, error = error.message, tries, "image not pulled");
            progress.say(None, format!("{}; trying again in {} s", error.message, wait.as_secs()));
            tokio::time::sleep(wait).await;
            wait *= 2;
            tries += 1;
        }
    }

    async fn try_bring(&self, reference: &Reference, progress: &Reporter) -> Result<(), ImageError> {
        let image = reference.whole.clone();
        let found = self
            .0
            .engine
            .call("look for an image", CALL_LIMIT, |docker| async move { docker.inspect_image(&image).await })
            .await;
        match found {
            Ok(_) => return Ok(()),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(explain(&error, reference, &Login::None)),
        }
        tracing::info!(image = reference.whole, "image is pulled");
        let registry = credentials::registry_of(&reference.name).to_owned();
        let login =
            tokio::task::spawn_blocking(move || credentials::find(&registry)).await.unwrap_or(Login::None);
        self.pull(reference, &login, progress).await
    }

    pub(super) async fn pull(
        &self,
        reference: &Reference,
        login: &Login,
        progress: &Reporter,
    ) -> Result<(), ImageError> {
        let (stall, clock) = (self.0.patience.stall, self.0.clock);
        let fail = |error: EngineError| explain(&error, reference, login);
        let credentials = match login {
            Login::Known(credentials) => Some(credentials.clone()),
            Login::None | Login::Helper(_) => None,
        };
        // The Engine answers only when the registry has.
        let client = self.0.engine.client(stall).map_err(fail)?;
        let options =
            CreateImageOptionsBuilder::default().from_image(&reference.name).tag(&reference.tag).build();
        let mut lines = client.create_image(Some(options), None, credentials);
        let stalled_after = |limit: Duration| {
            let (image, seconds) = (&reference.whole, limit.as_secs());
            ImageError::passing(format!("image {image} stalled: nothing came for {seconds} s"))
        };
        let mut pull = Pull::begin(clock.now());
        let mut limit = stall;
        let mut stalled = Box::pin(tokio::time::sleep(limit));
        progress.say(None, pull.words(&reference.whole, clock.now()));
        loop {
            let info = tokio::select! {
                next = lines.next() => match next {
                    None => return Ok(()),
                    Some(Ok(info)) => info,
                    // The Engine itself is silent as long as the registry is.
                    Some(Err(bollard::errors::Error::RequestTimeoutError)) => return Err(stalled_after(stall)),
                    Some(Err(error)) => return Err(fail(self.0.engine.error(error, "pull", stall))),
                },
                () = &mut stalled => return Err(stalled_after(limit)),
            };
            let now = clock.now();
            if pull.take(line(&info), now) {
                limit = if pull.is_unpacking() { stall * UNPACKING } else { stall };
                stalled.set(tokio::time::sleep(limit));
            }
            progress.say(pull.percent(), pull.words(&reference.whole, now));
        }
    }
}

fn line(info: &CreateImageInfo) -> Line<'_> {
    let detail = info.progress_detail.as_ref();
    let bytes = |count: Option<i64>| count.and_then(|count| u64::try_from(count).ok());
    Line {
        id: info.id.as_deref().unwrap_or_default(),
        status: info.status.as_deref().unwrap_or_default(),
        current: bytes(detail.and_then(|detail| detail.current)),
        total: bytes(detail.and_then(|detail| detail.total)),
    }
}

/// An error of the Engine as people need it.
fn explain(error: &EngineError, reference: &Reference, login: &Login) -> ImageError {
    let (image, registry) = (&reference.whole, credentials::registry_of(&reference.name));
    let cause = match error {
        EngineError::Answered { message, .. } => message.clone(),
        other => other.to_string(),
    };
    let login = match login {
        Login::Helper(name) => format!(
            "log in with docker login {registry} without the credential helper {name}, which the agent cannot use"
        ),
        Login::Known(_) => format!("the login in Docker's config.json does not do: docker login {registry}"),
        Login::None => format!("log in with docker login {registry} as the agent's user"),
    };
    let lasting = ImageError::lasting;
    match refusal::of_pull(error) {
        Fault::NoImage => lasting(format!("there is no image {image} ({cause}): check its name")),
        Fault::Hidden => lasting(format!(
            "there is no image {image}, or the registry hides it ({cause}): check its name, or {login}"
        )),
        Fault::Denied => lasting(format!("the registry refused {image} ({cause}): {login}")),
        Fault::Digest => lasting(format!("what the registry sent as {image} is not that image ({cause})")),
        Fault::DiskFull => lasting(format!(
            "the disk of the Docker Engine is full ({cause}): make room, for example with docker image prune"
        )),
        Fault::Name => lasting(format!("\"{image}\" is no name of an image ({cause}): check its name")),
        Fault::Platform => {
            lasting(format!("the image {image} is not made for this kind of machine ({cause})"))
        }
        Fault::Tls => lasting(format!(
            "the certificate of the registry {registry} is not trusted ({cause}): make the Docker Engine trust it"
        )),
        Fault::Passing => ImageError::passing(format!("image {image} could not be pulled: {cause}")),
    }
}

impl Reference {
    pub(super) fn parse(text: &str) -> Result<Self, ImageError> {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | ':' | '@');
        let is_name = !text.is_empty()
            && text.len() <= NAME_MAX
            && text.chars().all(legal)
            && text.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if !is_name {
            let shown = engine::one_line(text);
            return Err(ImageError::lasting(format!("\"{shown}\" is no name of an image: check its name")));
        }
        let (name, digest) = text.split_once('@').map_or((text, None), |(name, digest)| (name, Some(digest)));
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (name, None),
        };
        let tag = digest.or(tag).unwrap_or("latest").to_owned();
        Ok(Self { whole: text.to_owned(), name: name.to_owned(), tag })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_images() {
        for (text, name, tag) in [
            ("ubuntu", "ubuntu", "latest"),
            ("ollama/ollama:0.5.1", "ollama/ollama", "0.5.1"),
            ("localhost:5000/x", "localhost:5000/x", "latest"),
            ("localhost:5000/x:1", "localhost:5000/x", "1"),
            ("r.io/x:1@sha256:00", "r.io/x", "sha256:00"),
        ] {
            let reference = Reference::parse(text).expect(text);
            assert_eq!((reference.name.as_str(), reference.tag.as_str()), (name, tag), "{text}");
        }
        for text in ["", "a b", "../../containers", "a//b", "/a", "x?tag=1", "x#", "ä"] {
            assert!(Reference::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_people_read() {
        let reference = Reference::parse("localhost:5000/x:1").expect("a name");
        let said = |status, message: &str, login| {
            let error = EngineError::Answered { status, message: message.to_owned() };
            explain(&error, &reference, &login).to_string()
        };
        assert_eq!(
            said(404, "manifest unknown", Login::None),
            "image_pull: there is no image localhost:5000/x:1 (manifest unknown): check its name"
        );
        assert_eq!(
            said(500, "no basic auth credentials", Login::None),
            "image_pull: the registry refused localhost:5000/x:1 (no basic auth credentials): \
             log in with docker login localhost:5000 as the agent's user"
        );
        assert_eq!(
            said(500, "unauthorized", Login::Helper("desktop".to_owned())),
            "image_pull: the registry refused localhost:5000/x:1 (unauthorized): log in with docker login \
             localhost:5000 without the credential helper desktop, which the agent cannot use"
        );
        assert_eq!(
            said(0, "write /x: no space left on device", Login::None),
            "image_pull: the disk of the Docker Engine is full (write /x: no space left on device): \
             make room, for example with docker image prune"
        );
    }
}

//! Around every gRPC call: a log line, and a panic becomes `INTERNAL` instead of a broken connection.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use nebula_core::clock::Clock;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

/// Wraps services in a [`Guarded`].
#[derive(Clone)]
pub(super) struct Guard {
    pub(super) clock: Clock,
}

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { inner, clock: self.clock }
    }
}

/// A service whose calls are logged and whose panics are caught.
#[derive(Clone)]
pub(super) struct Guarded<S> {
    inner: S,
    clock: Clock,
}

type Response = http::Response<Body>;
type Answer = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

impl<S> Service<http::Request<Body>> for Guarded<S>
where
    S: Service<http::Request<Body>, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Answer {
        let method = request.uri().path().to_owned();
        let (clock, started) = (self.clock, self.clock.now());
        let call = AssertUnwindSafe(self.inner.call(request)).catch_unwind();
        Box::pin(async move {
            let response = match call.await {
                Ok(Ok(response)) => response,
                Ok(Err(never)) => match never {},
                Err(_) => Status::internal("the control plane failed on this call").into_http(),
            };
            let code =
                response.headers().get("grpc-status").and_then(|code| code.to_str().ok()).unwrap_or("0");
            let duration_ms = clock.now().since(started).as_millis() as u64;
            tracing::debug!(method, code, duration_ms, "grpc call");
            Ok(response)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_becomes_internal() {
        let panics = tower::service_fn(|_: http::Request<Body>| async {
            if std::hint::black_box(true) {
                panic!("on purpose");
            }
            Ok::<_, Infallible>(Response::default())
        });
        let mut guarded = Guard { clock: Clock::start() }.layer(panics);
        let response = guarded.call(http::Request::new(Body::empty())).await.expect("never fails");
        assert_eq!(response.headers()["grpc-status"], "13");
    }
}

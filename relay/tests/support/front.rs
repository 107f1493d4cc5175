//! A server that relays everything to one upstream.
#![allow(unreachable_pub, reason = "a module of a test")]

use std::net::SocketAddr;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use bytes::Bytes;
use nebula_relay::{Broken, Call, CallBody, Client, RelayBody, RequestHead, UpstreamError};

/// The idle timeout of the relay, and its timeout to the first byte.
pub const IDLE: Duration = Duration::from_millis(400);
pub const FIRST_BYTE: Duration = Duration::from_millis(1500);

pub type Shape = fn(RelayBody) -> RelayBody;

pub struct Front {
    pub address: SocketAddr,
    handle: ServerHandle,
}

impl Front {
    pub async fn before(upstream: SocketAddr) -> Self {
        Self::shaping(upstream, |body| body).await
    }

    /// A front that does this to every body.
    pub async fn shaping(upstream: SocketAddr, shape: Shape) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let server = HttpServer::new(move || {
            App::new()
                .app_data(Client::new())
                .app_data(upstream)
                .app_data(shape)
                .default_service(web::to(forward))
        })
        .workers(1)
        .h1_allow_half_closed(false)
        .tcp_nodelay(true)
        .disable_signals()
        .listen(listener)
        .expect("a server")
        .run();
        let handle = server.handle();
        actix_rt::spawn(server);
        Self { address, handle }
    }

    pub async fn stop(self) {
        self.handle.stop(false).await;
    }
}

async fn forward(request: HttpRequest, payload: web::Payload) -> HttpResponse {
    let client = request.app_data::<Client>().expect("a client").clone();
    let upstream = request.app_data::<SocketAddr>().expect("an upstream");
    let body = CallBody::of(&request, payload, IDLE).await.expect("a body");
    let uri = request.uri();
    let call = Call {
        address: &upstream.to_string().parse().expect("an address"),
        head: RequestHead::new(request.method(), uri.path(), uri.query())
            .forward(request.headers(), |_| false),
        body,
        first_byte_timeout: FIRST_BYTE,
    };
    match client.send(call).await {
        Ok(upstream) => {
            let mut response = HttpResponse::build(upstream.status);
            for header in &upstream.headers {
                response.append_header(header);
            }
            let shape = request.app_data::<Shape>().expect("a shape");
            response.body(shape(upstream.relay(IDLE, error_event)))
        }
        Err(UpstreamError::Timeout) => HttpResponse::GatewayTimeout().finish(),
        Err(error) => HttpResponse::BadGateway().body(error.to_string()),
    }
}

fn error_event(broken: Broken) -> Bytes {
    format!("data: {{\"error\":\"{broken:?}\"}}\n\n").into()
}

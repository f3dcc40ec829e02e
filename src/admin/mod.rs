//! The admin server: health for probes and metrics for Prometheus, over HTTP on loopback.

mod config;
mod health;
mod metrics;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HOST};
use axum::http::uri::Authority;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;

pub use self::config::Config;
use crate::access::Access;
use crate::metrics::Metrics;
use crate::net::{Accepted, Address, BindError, Bound, Peers, Stream, TakenPorts};
use crate::share::{Pool, Shares, Taken};
use crate::store::Store;
use crate::task::{Stop, Tasks};

/// How many connections there may be; a user has at most a half of them.
const MAX_CONNECTIONS: usize = 64;

/// How soon a request must be whole, and how long a connection may be silent between two.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How long one connection may last, whatever it does: whoever takes no answer gives up its place.
const MAX_TIME: Duration = Duration::from_secs(60);

/// The largest request, which has no body.
const MAX_REQUEST: usize = 16 * 1024;

const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A bound server, which answers nobody yet.
#[derive(Debug)]
pub struct Admin(Result<Bound, BindError>);

/// Of what it answers.
#[derive(Debug)]
pub struct Rooms {
    pub store: Arc<Store>,
    pub access: Arc<Access>,
    pub metrics: Arc<Metrics>,
    pub memory: Arc<Pool>,
    pub started: Instant,
}

#[derive(Debug)]
struct Answers {
    rooms: Rooms,
    text: metrics::Text,
}

impl Admin {
    /// Begins to listen. A port that another process has keeps nobody from the rest.
    pub fn bind(config: &Config, taken_ports: TakenPorts) -> Result<Self, BindError> {
        Bound::tcp_unless_taken("admin.listen", &config.listen, taken_ports).map(Self)
    }

    /// Where it listens.
    pub fn address(&self) -> Option<&Address> {
        self.0.as_ref().ok().map(Bound::address)
    }

    pub fn start(self, rooms: Rooms, tasks: &Tasks) {
        let (connections, stop) = (tasks.clone(), tasks.stop_signal());
        let shares = Shares::of(Pool::new(MAX_CONNECTIONS, 1), None);
        tasks.critical("the admin server", async move {
            let bound = match self.0 {
                Ok(bound) => bound,
                Err(taken) => match Bound::when_free(taken, &rooms.metrics, &stop).await {
                    Some(bound) => bound,
                    None => return,
                },
            };
            let (router, peers) = (router(rooms), Peers::new());
            let serve = |accepted: Accepted| {
                let Ok(stream) = accepted.into_stream() else { return };
                // Who has too many is closed at once.
                let place = peers.of(&stream).and_then(|peer| shares.share(peer.user).take(1));
                if let Some(place) = place {
                    connections.short(converse(stream, router.clone(), place, stop.clone()));
                }
            };
            if let Err(error) = bound.accept(&stop, serve).await {
                tracing::error!(%error, "the admin server cannot listen");
            }
            stop.requested().await;
        });
    }
}

/// Answers one connection, and then gives up its place.
async fn converse(stream: Stream, router: Router, place: Taken, stop: Stop) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .max_buf_size(MAX_REQUEST)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::select! {
        // Whatever a client does wrong ends its connection, and is nobody else's concern.
        _ = tokio::time::timeout(MAX_TIME, connection) => {}
        () = stop.requested() => {}
    }
    drop(place);
}

fn router(rooms: Rooms) -> Router {
    let answers = Arc::new(Answers { rooms, text: metrics::Text::default() });
    Router::new()
        .route("/live", get(|| async { "live\n" }))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .fallback(|| async { (StatusCode::NOT_FOUND, "there are /live, /ready and /metrics\n") })
        .layer(middleware::from_fn(for_this_machine))
        .with_state(answers)
}

async fn ready(State(answers): State<Arc<Answers>>) -> (StatusCode, String) {
    health::ready(&answers.rooms.store.snapshot())
}

async fn metrics(State(answers): State<Arc<Answers>>) -> Response {
    // With thousands of methods it takes longer than a thread that serves others has.
    let text = tokio::task::spawn_blocking(move || answers.text.get(&answers.rooms)).await;
    match text.map_err(|error| error.to_string()).and_then(|text| text.map_err(|error| error.to_string())) {
        Ok(text) => ([(CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// Answers only who asks this machine by an address of its own: a page of the web whose name leads to 127.0.0.1 would have
/// its readers' browsers ask.
async fn for_this_machine(request: Request, next: Next) -> Response {
    if !request.headers().get(HOST).is_some_and(is_this_machine) {
        return (StatusCode::MISDIRECTED_REQUEST, "ask by 127.0.0.1, [::1] or localhost\n").into_response();
    }
    let mut response = next.run(request).await;
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn is_this_machine(host: &HeaderValue) -> bool {
    let Ok(host) = Authority::try_from(host.as_bytes()) else { return false };
    let host = host.host().trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

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
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;

pub use self::config::Config;
use crate::access::Access;
use crate::metrics::Metrics;
use crate::net::{Accepted, Address, BindError, Listener, Peers, Stream, TakenPorts, User};
use crate::places::{Place, Places};
use crate::queue::Queues;
use crate::share::Pool;
use crate::store::Store;
use crate::task::{Stop, Tasks};
use crate::worker::Workers;

/// How many connections are allowed.
const MAX_CONNECTIONS: usize = 64;

/// How soon a request must be complete, and its answer received. Each connection serves one request, so none waits for
/// another and none ends while an answer is on its way.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The largest request, which has no body.
const MAX_REQUEST: usize = 16 * 1024;

const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A bound server that does not answer yet.
#[derive(Debug)]
pub struct Admin(Result<Listener, BindError>);

/// The rooms it reports on.
#[derive(Debug)]
pub struct Rooms {
    pub store: Arc<Store>,
    pub access: Arc<Access>,
    pub workers: Arc<Workers>,
    pub queues: Arc<Queues>,
    pub metrics: Arc<Metrics>,
    pub memory: Arc<Pool>,
    pub started: Instant,
}

#[derive(Debug)]
struct Answers {
    rooms: Rooms,
    text: Arc<tokio::sync::Mutex<metrics::Text>>,
}

impl Admin {
    /// Begins to listen. If another process has the port, the rest of the sidecar runs all the same.
    pub fn bind(config: &Config, taken_ports: TakenPorts) -> Result<Self, BindError> {
        Listener::tcp_unless_taken("admin.listen", &config.listen, taken_ports).map(Self)
    }

    /// Where it listens.
    pub fn address(&self) -> Option<&Address> {
        self.0.as_ref().ok().map(Listener::address)
    }

    pub fn start(self, rooms: Rooms, tasks: &Tasks) {
        let (connections, stop) = (tasks.clone(), tasks.stop_signal());
        let places = Places::new(MAX_CONNECTIONS, None);
        tasks.critical("the admin server", async move {
            let listener = match self.0 {
                Ok(listener) => listener,
                Err(taken) => match Listener::when_free(taken, &rooms.metrics, &stop).await {
                    Some(listener) => listener,
                    None => return,
                },
            };
            let (router, peers) = (router(rooms), Peers::new());
            let serve = |accepted: Accepted| {
                let Some(user) = peers.user_of(&accepted) else { return };
                if let Ok(stream) = accepted.into_stream() {
                    connections.short(answer(stream, router.clone(), places.take(user), stop.clone()));
                }
            };
            listener.accept(&stop, serve).await;
        });
    }
}

/// Answers one request. Until the request has arrived, its connection is the first to be evicted.
fn answer(stream: Stream, router: Router, place: Place<User>, stop: Stop) -> impl Future<Output = ()> {
    place.set_yielding(true);
    async move {
        let router = TowerToHyperService::new(router);
        let service = service_fn(|request| {
            place.set_yielding(false);
            router.call(request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(TIMEOUT)
            .keep_alive(false)
            .max_buf_size(MAX_REQUEST)
            .serve_connection(TokioIo::new(stream), service);
        tokio::select! {
            // Answer what has already arrived.
            biased;
            // A client's mistake ends its own connection and affects nothing else.
            _ = tokio::time::timeout(2 * TIMEOUT, connection) => {}
            () = place.evicted() => {}
            () = stop.requested() => {}
        }
    }
}

fn router(rooms: Rooms) -> Router {
    let answers = Arc::new(Answers { text: metrics::Text::of(&rooms), rooms });
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
    let mut text = answers.text.clone().lock_owned().await;
    let made = match text.fresh() {
        Some(fresh) => Ok(Ok(fresh)),
        // With thousands of methods this takes longer than a thread that serves others may spend. The client may be
        // gone before it is done; the next one then uses the result.
        None => {
            text.look(&answers.rooms.queues).await;
            tokio::task::spawn_blocking(move || text.make(&answers.rooms)).await
        }
    };
    match made {
        Ok(Ok(text)) => ([(CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Ok(Err(error)) => (error.status(), format!("{error}\n")).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// Answers only requests that use an address of this machine: a web page whose name resolves to 127.0.0.1 could
/// otherwise make its readers' browsers ask.
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

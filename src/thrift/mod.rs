//! The Thrift endpoint: tells the dialect, cuts out one message, answers it.
//!
//! Its threads share nothing but the store: each has a runtime of its own, accepts from the same listeners, and
//! keeps a connection from its first byte to its last. So an answer costs no hand-over between threads.

mod admission;
mod call;
mod caller;
pub mod client;
mod codec;
mod config;
mod connection;
mod convert;
mod cut;
mod dialect;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod handler;
mod masters;
mod owed;
mod request;
mod scan;
mod service;
mod value;
mod wait;
mod watch;

/// The generated code, of `idl/roster.thrift` and `idl/zk_data.thrift`.
#[allow(missing_debug_implementations, unused, unreachable_pub, clippy::all, clippy::unwrap_used)]
#[path = "../../gen/rs/roster.rs"]
pub mod idl;
#[allow(missing_debug_implementations, unused, unreachable_pub, clippy::all, clippy::unwrap_used)]
#[path = "../../gen/rs/zk_data.rs"]
pub mod zk_data;

use std::io;
use std::path::Path;
use std::sync::Arc;

use futures::future::join_all;

use self::admission::Admission;
pub use self::config::{Config, ZkData};
use self::handler::Desk;
use self::owed::Ledger;
use crate::metrics::Metrics;
use crate::net::{Address, BindError, Bound};
use crate::store::Store;
use crate::task::Tasks;

/// The endpoint: its listeners, and what its connections share.
#[derive(Debug)]
pub struct Endpoint {
    bound: Vec<Bound>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    desk: Desk,
    codec: codec::Codec,
    admission: Arc<Admission>,
    config: Config,
    metrics: Arc<Metrics>,
}

impl Endpoint {
    /// Begins to listen. Nobody is answered before `start`, but from now on who connects waits in the queue.
    pub fn bind(
        config: &Config,
        zk_data: &ZkData,
        store: &Arc<Store>,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, BindError> {
        let mut bound = Vec::new();
        if !config.unix.as_os_str().is_empty() {
            bound.push(Bound::unix(Path::new(&config.unix), &config.permissions())?);
        }
        if !config.tcp.is_empty() {
            bound.push(Bound::tcp(&config.tcp)?);
        }
        let ledger = Ledger::new(config.max_waiting_replies.as_u64() as usize);
        let shared = Shared {
            desk: Desk::new(config, zk_data, store.clone(), ledger.clone(), metrics.clone()),
            codec: codec::Codec::new(config, ledger, metrics.clone()),
            admission: Admission::new(config, metrics.clone()),
            config: config.clone(),
            metrics: metrics.clone(),
        };
        Ok(Self { bound, shared: Arc::new(shared) })
    }

    /// Where it listens.
    pub fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.bound.iter().map(Bound::address)
    }

    /// Starts the threads that answer.
    pub fn start(self, tasks: &Tasks) -> io::Result<()> {
        for number in 0..self.shared.config.threads {
            let (bound, shared) = (self.bound.clone(), self.shared.clone());
            tasks.thread(format!("thrift-{number}"), move |tasks| async move {
                let stop = tasks.stop_signal();
                let accepting = bound.iter().map(|bound| {
                    bound.accept(&stop, |stream| {
                        if let Some(place) = shared.admission.admit(stream.user(), stream.is_own()) {
                            tasks.short(connection::serve(stream, place, shared.clone(), stop.clone()));
                        }
                    })
                });
                for error in join_all(accepting).await.into_iter().filter_map(Result::err) {
                    tracing::error!(%error, "cannot accept on this thread");
                }
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

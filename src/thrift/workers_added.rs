//! Workers that are added to those of the configuration, or removed.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Peer;
use super::api::{Api, denied, invalid};
use super::idl::{Overloaded, WorkerAddition, WorkerControlReply, WorkerRemoval};
use super::workers::{outcomes_of, patience, stops};
use crate::task::Stop;
use crate::worker::{NotAdded, NotRemoved, Outcomes, Removed};

/// A request of `addWorker` under way.
#[derive(Debug)]
pub(super) struct Addition {
    added: oneshot::Receiver<Result<(String, Outcomes), NotAdded>>,
    timeout: Duration,
}

/// A request of `removeWorker` under way.
#[derive(Debug)]
pub(super) struct Removal {
    group: String,
    removed: oneshot::Receiver<Result<Removed, NotRemoved>>,
    timeout: Duration,
}

impl Api {
    pub(super) fn add_worker(&self, peer: &Peer, request: WorkerAddition) -> thrift::Result<Addition> {
        peer.identity.may_add_workers().map_err(denied)?;
        if self.workers.are_over() {
            return Err(stops());
        }
        let WorkerAddition { settings, save, timeout_ms } = request;
        let timeout = patience(timeout_ms)?;
        tracing::info!(client = %peer.identity.client(), save, "a worker is to be added");
        Ok(Addition { added: self.workers.add(settings, save.unwrap_or(false)), timeout })
    }

    /// Waits until its processes are ready, or have failed.
    pub(super) async fn added(&self, addition: Addition, stop: &Stop) -> thrift::Result<WorkerControlReply> {
        let Some(added) = until_done(addition.added, addition.timeout, stop).await? else { return Ok(timed_out()) };
        match added {
            Ok((name, outcomes)) => {
                let outcomes = outcomes_of(&name, outcomes);
                Ok(WorkerControlReply { outcomes, timed_out: false, not_saved: None, is_configured: None })
            }
            Err(NotAdded::Settings(why)) => Err(invalid("settings", &why)),
            Err(NotAdded::Full(why)) => Err(Overloaded { message: format!("no worker is added: {why}") }.into()),
        }
    }

    pub(super) fn remove_worker(&self, peer: &Peer, request: WorkerRemoval) -> thrift::Result<Removal> {
        peer.identity.may_add_workers().map_err(denied)?;
        if self.workers.are_over() {
            return Err(stops());
        }
        let WorkerRemoval { group, saved_only, timeout_ms } = request;
        let timeout = patience(timeout_ms)?;
        tracing::info!(client = %peer.identity.client(), group, saved_only, "a worker is to be removed");
        let removed = self.workers.remove(&group, saved_only.unwrap_or(false));
        Ok(Removal { group, removed, timeout })
    }

    /// Waits until it is gone.
    pub(super) async fn removed(&self, removal: Removal, stop: &Stop) -> thrift::Result<WorkerControlReply> {
        let Removal { group, removed, timeout } = removal;
        let Some(removed) = until_done(removed, timeout, stop).await? else { return Ok(timed_out()) };
        match removed {
            Ok(Removed { controlled: (outcomes, not_saved), is_configured }) => {
                let outcomes = outcomes_of(&group, outcomes);
                Ok(WorkerControlReply { outcomes, timed_out: false, not_saved, is_configured: Some(is_configured) })
            }
            Err(NotRemoved::NoGroup) => Err(self.no_group(&group)),
            Err(NotRemoved::NotSaved) => {
                Err(invalid("savedOnly", &format!("of `{}` nothing is saved", group.escape_debug())))
            }
            Err(why @ NotRemoved::Kept(_)) => Err(invalid("group", &why.to_string())),
        }
    }
}

/// The result; none: its time ran out.
async fn until_done<T>(done: oneshot::Receiver<T>, patience: Duration, stop: &Stop) -> thrift::Result<Option<T>> {
    tokio::select! {
        done = timeout(patience, done) => done.ok().map(|done| done.map_err(|_| stops())).transpose(),
        () = stop.requested() => Err(stops()),
    }
}

fn timed_out() -> WorkerControlReply {
    WorkerControlReply { outcomes: Vec::new(), timed_out: true, not_saved: None, is_configured: None }
}

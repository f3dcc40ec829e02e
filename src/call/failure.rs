//! Failures: why a call has no result, and what may be done about it.

use std::time::Duration;

use super::Request;
use crate::metrics::CallStatus;

#[derive(Clone, Debug, PartialEq)]
pub enum Failure {
    /// It was not executed.
    NoMaster { service: String, message: String },
    /// It was not executed, for there is too much to do.
    Overloaded(String),
    /// The method threw this, or what it gave cannot be taken.
    Failed { master: String, message: String, class: Option<String>, code: i64 },
    /// The master was lost, and nobody knows whether it was executed.
    Lost { master: String, message: String },
    /// Nobody knows whether it was executed, or still is.
    TimedOut { master: String, timeout: Duration, message: String },
}

impl Failure {
    /// That the master is none to call, or not any more: another one can be.
    pub fn unsent(request: &Request, message: String) -> Self {
        Self::NoMaster { service: request.service.clone(), message }
    }

    /// What a call did not come to, and within which time; and that this was not the client's own, if it was not.
    pub(super) fn timed_out(master: String, request: &Request, what: &str) -> Self {
        let Request { service, method, timeout, cut_by, .. } = request;
        let limit = cut_by.map(|setting| format!(", the most that `{setting}` allows")).unwrap_or_default();
        let message = format!("{service}.{method} {what} within {}{limit}", humantime::format_duration(*timeout));
        Self::TimedOut { master, timeout: *timeout, message }
    }

    /// Whether it is safe to call another master: nothing was executed, or it may be twice.
    pub(super) fn may_be_tried_again(&self, request: &Request) -> bool {
        match self {
            Self::NoMaster { .. } | Self::Overloaded(_) => true,
            Self::Lost { .. } => request.is_idempotent,
            Self::Failed { .. } | Self::TimedOut { .. } => false,
        }
    }

    /// Whether nobody knows if it was carried out, or still is.
    pub fn came_to_no_end(&self) -> bool {
        matches!(self, Self::TimedOut { .. } | Self::Lost { .. })
    }

    pub(super) fn status(&self) -> CallStatus {
        match self {
            Self::NoMaster { .. } | Self::Overloaded(_) => CallStatus::Refused,
            Self::Lost { .. } => CallStatus::Lost,
            Self::Failed { .. } => CallStatus::Failed,
            Self::TimedOut { .. } => CallStatus::TimedOut,
        }
    }
}

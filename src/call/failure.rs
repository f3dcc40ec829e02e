//! Failures: why a call has no result, and whether it may be retried.

use std::time::Duration;

use super::Request;
use crate::metrics::CallStatus;

#[derive(Clone, Debug, PartialEq)]
pub enum Failure {
    /// The call was not executed.
    NoMaster { service: String, message: String },
    /// The call was not executed because of overload.
    Overloaded(String),
    /// The method threw this, or its result cannot be accepted.
    Failed { master: String, message: String, class: Option<String>, code: i64 },
    /// The master was lost; whether it executed the call is unknown.
    Lost { master: String, message: String },
    /// Whether the call was executed, or still is being executed, is unknown.
    TimedOut { master: String, timeout: Duration, message: String },
}

impl Failure {
    /// The master cannot be called, or no longer; another one can be.
    pub fn unsent(request: &Request, message: String) -> Self {
        Self::NoMaster { service: request.service.clone(), message }
    }

    /// A timeout: what did not happen in which time, and which setting shortened it, if one did.
    pub(super) fn timed_out(master: String, request: &Request, what: &str) -> Self {
        let Request { service, method, timeout, cut_by, .. } = request;
        let limit = cut_by.map(|setting| format!(", the most that `{setting}` allows")).unwrap_or_default();
        let message = format!("{service}.{method} {what} within {}{limit}", humantime::format_duration(*timeout));
        Self::TimedOut { master, timeout: *timeout, message }
    }

    /// Whether it is safe to call another master: nothing was executed, or the call is idempotent.
    pub(super) fn may_be_tried_again(&self, request: &Request) -> bool {
        match self {
            Self::NoMaster { .. } | Self::Overloaded(_) => true,
            Self::Lost { .. } => request.is_idempotent,
            Self::Failed { .. } | Self::TimedOut { .. } => false,
        }
    }

    /// Whether it is unknown if the call was executed, or still is.
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

//! Statuses: what happened to a call that has no result, as our ends report it to each other.
//!
//! It is the `status` of an `error` frame, next to the `data` made from an exception, so that nothing an application
//! throws can be mistaken for it. PHP peers neither write nor read it.

use super::value::{Value, get, text};

/// What happened to a call that has no result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// Its method failed, or its result cannot be accepted.
    #[default]
    Failed,
    /// It was refused and not executed, because of overload, or because the master is leaving.
    Refused,
    /// The connection to the master was lost before the call was sent.
    Unsent,
    /// The connection to the master was lost, and the call may or may not have been executed.
    Lost,
}

const KEY: &str = "status";

/// The previous version had the status in place of an exception's class, with this prefix. It is still written there,
/// and read if there is no status.
const OLD_PREFIX: &str = "roster:";

impl Status {
    const ALL: [Self; 4] = [Self::Failed, Self::Refused, Self::Unsent, Self::Lost];

    fn word(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Unsent => "unsent",
            Self::Lost => "lost",
        }
    }

    /// The entry of an `error` frame; none: a failure in PHP's sense.
    pub(super) fn encode(self) -> Option<(&'static str, Value)> {
        (self != Self::Failed).then(|| (KEY, self.word().into()))
    }

    /// From an `error` frame whose `data` has this class. A status that only newer versions know counts as a failure:
    /// what may have been executed must not be retried.
    pub(super) fn decode(frame: &Value, class: Option<&str>) -> Self {
        let told = get(frame, KEY).map(|word| text(word).and_then(|word| Self::of_word(&word)).unwrap_or_default());
        told.or_else(|| Self::of_old_class(class?)).unwrap_or_default()
    }

    /// The class of an error with this status, for peers of the previous version: these could mistake an application's
    /// class for a status.
    pub(super) fn class(self, of_application: Option<String>) -> Option<String> {
        match self {
            Self::Failed => of_application.filter(|class| Self::of_old_class(class).is_none()),
            told => Some(format!("{OLD_PREFIX}{}", told.word())),
        }
    }

    fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.word() == word)
    }

    fn of_old_class(class: &str) -> Option<Self> {
        Self::of_word(class.strip_prefix(OLD_PREFIX)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Message, RemoteError};

    fn arrived(error: RemoteError) -> RemoteError {
        let frame = Message::Error { uuid: "u".into(), error }.encode();
        let Ok(Some(Message::Error { error, .. })) = Message::decode(&frame) else { panic!("{frame:?}") };
        error
    }

    fn read(status: Option<&str>, class: &str) -> (Status, Option<String>) {
        let data = Value::Map(vec![("message".into(), "no".into()), ("class".into(), class.into())]);
        let status = status.map(|status| (Value::from(KEY), status.into()));
        let frame = [("cmd".into(), "error".into()), ("uuid".into(), "u".into()), ("data".into(), data)];
        let mut bytes = Vec::new();
        let frame = Value::Map(frame.into_iter().chain(status).collect());
        rmpv::encode::write_value(&mut bytes, &frame).expect("a vector takes it");
        let Ok(Some(Message::Error { error, .. })) = Message::decode(&bytes) else { panic!("{frame}") };
        (error.status, error.class)
    }

    #[test]
    fn every_status_is_read_as_it_was_written() {
        for status in Status::ALL {
            assert_eq!(arrived(RemoteError::of(status, "why")), RemoteError::of(status, "why"));
        }
    }

    #[test]
    fn what_an_application_throws_is_no_status_whatever_its_class() {
        for class in Status::ALL.map(|status| format!("{OLD_PREFIX}{}", status.word())) {
            let thrown = RemoteError { class: Some(class.clone()), code: 7, ..RemoteError::new("no") };
            assert_eq!(arrived(thrown), RemoteError { code: 7, ..RemoteError::new("no") });
            assert_eq!(read(Some("failed"), &class), (Status::Failed, Some(class)));
        }
        let other = RemoteError { class: Some("roster:other".into()), ..RemoteError::new("no") };
        assert_eq!(arrived(other.clone()), other);
    }

    #[test]
    fn the_version_before_is_understood_and_what_a_newer_one_adds_is_a_failure() {
        for status in [Status::Refused, Status::Unsent, Status::Lost] {
            let class = format!("roster:{}", status.word());
            assert_eq!(read(None, &class), (status, None));
            let frame = Message::Error { uuid: "u".into(), error: RemoteError::of(status, "no") }.encode();
            let has_class = frame.windows(class.len()).any(|bytes| bytes == class.as_bytes());
            assert!(has_class, "the version before looks for it: {status:?}");
        }
        assert_eq!(read(None, "E"), (Status::Failed, Some("E".into())));
        assert_eq!(read(Some("novel"), "roster:refused"), (Status::Failed, Some("roster:refused".into())));
    }
}

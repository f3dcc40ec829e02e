//! The inbox: events of a session that were not taken yet. It is bounded, whatever a server sends.

use std::collections::BTreeMap;

use tokio::sync::Notify;

use super::session::{Event, SessionError};
use super::watching::Fired;
use crate::model::NodePath;
use crate::sync::{Mutex, MutexGuard};

/// The most queued paths, and their bytes. With more, the connection is dropped, and everything is read again.
const MAX_PATHS: usize = 200_000;
const MAX_PATH_BYTES: usize = 32 << 20;

#[derive(Debug, Default)]
pub(super) struct Inbox {
    contents: Mutex<Contents>,
    came: Notify,
}

#[derive(Debug, Default)]
struct Contents {
    /// What has changed at each path, by its events.
    changed: BTreeMap<NodePath, Fired>,
    /// For each invalid name below a path, whether it exists.
    odd: BTreeMap<(NodePath, String), bool>,
    path_bytes: usize,
    reconfigured: bool,
    lost: Option<String>,
    regained: bool,
    ended: Option<SessionError>,
}

impl Inbox {
    /// A path has changed; an error if there is no room for more.
    pub(super) fn changed(&self, path: NodePath, fired: Fired) -> Result<(), SessionError> {
        let mut contents = self.lock();
        if let Some(was) = contents.changed.get_mut(&path) {
            was.add(fired);
            return Ok(());
        }
        contents.path_bytes += path.as_str().len();
        contents.changed.insert(path, fired);
        self.came.notify_one();
        contents.check()
    }

    /// A node with an invalid name appeared or disappeared below this path.
    pub(super) fn odd(&self, parent: NodePath, name: String, is_there: bool) -> Result<(), SessionError> {
        let mut contents = self.lock();
        let bytes = parent.as_str().len() + name.len();
        if contents.odd.insert((parent, name), is_there).is_none() {
            contents.path_bytes += bytes;
        }
        self.came.notify_one();
        contents.check()
    }

    /// The ensemble may have other servers.
    pub(super) fn reconfigured(&self) {
        self.lock().reconfigured = true;
    }

    /// Whether the ensemble may have other servers than when this was last called.
    pub(super) fn take_reconfigured(&self) -> bool {
        std::mem::take(&mut self.lock().reconfigured)
    }

    /// Changes before a loss do not matter: everything is read again.
    pub(super) fn lost(&self, why: String) {
        *self.lock() = Contents { lost: Some(why), ..Contents::default() };
        self.came.notify_one();
    }

    pub(super) fn regained(&self) {
        self.lock().regained = true;
        self.came.notify_one();
    }

    pub(super) fn ended(&self, trouble: SessionError) {
        self.lock().ended = Some(trouble);
        self.came.notify_one();
    }

    /// Why there will be no more events.
    pub(super) fn end(&self) -> Option<SessionError> {
        self.lock().ended.clone()
    }

    /// The next event, if one has arrived.
    pub(super) fn take(&self) -> Option<Result<Event, SessionError>> {
        let mut contents = self.lock();
        if let Some(trouble) = &contents.ended {
            return Some(Err(trouble.clone()));
        }
        if let Some(why) = contents.lost.take() {
            return Some(Ok(Event::Lost(why)));
        }
        if std::mem::take(&mut contents.regained) {
            return Some(Ok(Event::Regained));
        }
        if let Some(((parent, name), is_there)) = contents.odd.pop_first() {
            contents.path_bytes -= parent.as_str().len() + name.len();
            return Some(Ok(Event::Odd { parent, name, is_there }));
        }
        let (path, fired) = contents.changed.pop_first()?;
        contents.path_bytes -= path.as_str().len();
        Some(Ok(Event::Changed { path, fired }))
    }

    /// The next event. Cancel-safe.
    pub(super) async fn next(&self) -> Result<Event, SessionError> {
        loop {
            if let Some(event) = self.take() {
                return event;
            }
            self.came.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().expect("nobody panics while holding it")
    }
}

impl Contents {
    /// An error if there is no room for more.
    fn check(&self) -> Result<(), SessionError> {
        if self.changed.len() + self.odd.len() > MAX_PATHS || self.path_bytes > MAX_PATH_BYTES {
            return Err(SessionError::Lost("events came faster than they were taken".into()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: Fired = Fired { data: true, children: false };

    fn path(number: usize) -> NodePath {
        NodePath::parse(&format!("/{number}")).expect("a path")
    }

    #[test]
    fn events_without_end_find_no_place_and_a_loss_empties_it() {
        const LENGTH: usize = 1 << 20;
        let inbox = Inbox::default();
        let long = |number: usize| path(number).child(&"x".repeat(LENGTH));
        let taken = (0..100).take_while(|number| inbox.changed(long(*number), DATA).is_ok());
        assert_eq!(taken.count(), MAX_PATH_BYTES / LENGTH - 1);
        inbox.lost("too many".into());
        assert!(matches!(inbox.take(), Some(Ok(Event::Lost(_)))));
        assert!(inbox.take().is_none());
    }

    #[test]
    fn the_events_of_one_path_are_one() {
        let inbox = Inbox::default();
        for fired in [DATA, Fired { data: false, children: true }, DATA] {
            inbox.changed(path(1), fired).expect("place");
        }
        let both = Fired { data: true, children: true };
        assert!(matches!(inbox.take(), Some(Ok(Event::Changed { fired, .. })) if fired == both));
        assert!(inbox.take().is_none());
    }

    #[tokio::test]
    async fn a_loss_and_a_return_are_both_told_and_an_end_always() {
        let inbox = Inbox::default();
        inbox.changed(path(1), DATA).expect("place");
        inbox.lost("why".into());
        inbox.regained();
        assert!(matches!(inbox.next().await, Ok(Event::Lost(why)) if why == "why"));
        assert!(matches!(inbox.next().await, Ok(Event::Regained)));
        inbox.ended(SessionError::Refused);
        for _ in 0..2 {
            assert!(matches!(inbox.next().await, Err(SessionError::Refused)));
        }
    }
}

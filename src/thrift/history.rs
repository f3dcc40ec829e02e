//! The history: what happened to instances, for clients that may see their services.

use super::api::{Api, denied, invalid, page_size};
use super::idl::{self, HistoryEntry, HistoryEvent, HistoryQuery, HistoryReply, NotReady};
use super::{Peer, convert};
use crate::access::Grant;
use crate::history::{Entry, Event};
use crate::model::NodePath;

/// How many entries are searched for one page.
const MAX_SEEN: usize = 16_000;

impl Api {
    /// Over several turns, if many entries are skipped.
    pub(super) async fn history(&self, peer: &Peer, query: &HistoryQuery) -> thrift::Result<HistoryReply> {
        let service = query.service_name.as_deref();
        match service {
            Some(service) => peer.identity.may_see(service).map_err(denied)?,
            None => peer.identity.may_see_any().map_err(denied)?,
        }
        let after = u64::try_from(query.after.unwrap_or(0)).map_err(|_| invalid("after", "must not be below 0"))?;
        self.ensure_room_for_page(peer)?;
        let limit = page_size(query.limit)?;
        let Some(kept) = self.history.kept() else {
            let message = "what an earlier process left of it is being read".to_owned();
            return Err(NotReady { source: "the history".into(), message }.into());
        };
        let grant = peer.identity.grant();
        let (mut entries, mut bytes, mut cursor, mut has_more) = (Vec::new(), 0, after, false);
        for (seen, entry) in kept.after(service, after).enumerate() {
            if entries.len() == limit || bytes > self.page_bytes() || seen == MAX_SEEN {
                has_more = true;
                break;
            }
            peer.let_others_work().await;
            cursor = entry.number;
            let is_late = query.since_ms.is_none_or(|since| entry.time >= since);
            let is_of_it = query.instance.as_ref().is_none_or(|instance| entry.instance == *instance);
            if is_late && is_of_it && is_visible(entry, grant) {
                let told = convert::entry(entry, grant);
                bytes += convert::entry_size(&told);
                entries.push(told);
            }
        }
        let trouble = self.history.trouble().or_else(|| self.metrics.state_trouble.load_full());
        let not_written = trouble.map(|why| why.to_string());
        Ok(HistoryReply { entries, cursor: cursor as i64, has_more, not_written })
    }
}

/// Whether a client may see it. What a source holds in total is for clients that see everything.
fn is_visible(entry: &Entry, grant: &Grant) -> bool {
    match entry.event {
        Event::Read => grant.sees_all(),
        _ if entry.service.is_empty() => true,
        _ => grant.sees(&entry.service),
    }
}

impl From<Event> for HistoryEvent {
    fn from(event: Event) -> Self {
        match event {
            Event::Appeared => Self::APPEARED,
            Event::Changed => Self::CHANGED,
            Event::Vanished => Self::VANISHED,
            Event::Undecodable => Self::UNDECODABLE,
            Event::Read => Self::READ,
            Event::Started => Self::STARTED,
            Event::Stopped => Self::STOPPED,
            Event::Omitted => Self::OMITTED,
            Event::Held => Self::HELD,
            Event::Returned => Self::RETURNED,
            Event::Ejected => Self::EJECTED,
            Event::Admitted => Self::ADMITTED,
            Event::Drained => Self::DRAINED,
            Event::Undrained => Self::UNDRAINED,
            Event::Unknown => Self(0),
        }
    }
}

impl From<idl::HistoryEvent> for Event {
    fn from(event: idl::HistoryEvent) -> Self {
        match event {
            HistoryEvent::APPEARED => Self::Appeared,
            HistoryEvent::CHANGED => Self::Changed,
            HistoryEvent::VANISHED => Self::Vanished,
            HistoryEvent::UNDECODABLE => Self::Undecodable,
            HistoryEvent::READ => Self::Read,
            HistoryEvent::STARTED => Self::Started,
            HistoryEvent::STOPPED => Self::Stopped,
            HistoryEvent::OMITTED => Self::Omitted,
            HistoryEvent::HELD => Self::Held,
            HistoryEvent::RETURNED => Self::Returned,
            HistoryEvent::EJECTED => Self::Ejected,
            HistoryEvent::ADMITTED => Self::Admitted,
            HistoryEvent::DRAINED => Self::Drained,
            HistoryEvent::UNDRAINED => Self::Undrained,
            _ => Self::Unknown,
        }
    }
}

impl From<HistoryEntry> for Entry {
    fn from(entry: HistoryEntry) -> Self {
        Self {
            number: entry.number as u64,
            time: entry.time,
            revision: entry.revision as u64,
            event: entry.event.into(),
            service: entry.service_name.unwrap_or_default(),
            version: entry.version.unwrap_or_default(),
            instance: entry.instance.unwrap_or_default(),
            source: entry.source.unwrap_or_default(),
            path: entry.path.and_then(|path| NodePath::parse(&path).ok()),
            why: entry.why,
            count: entry.count.unwrap_or(0) as u64,
            root: String::new(),
        }
    }
}

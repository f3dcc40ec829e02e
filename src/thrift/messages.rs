//! Messages of masters: waits until masters have sent some unprompted, and returns them.

use super::Peer;
use super::api::{Api, denied, invalid};
use super::idl::{self, WatchMessagesRequest};
use super::request;
use super::watch::{Found, Patience};
use crate::call::Encoding;
use crate::model::Revision;
use crate::store::MasterMessage;
use crate::task::Stop;

/// How much longer a message may be as JSON than as MessagePack: control characters are escaped.
const GROWTH: usize = 8;

/// A request of `watchMessages`, validated.
#[derive(Debug)]
pub(super) struct MessageWatch {
    patience: Patience,
    encoding: Encoding,
}

impl Api {
    /// Validates a request of `watchMessages`.
    pub(super) fn watch_messages(&self, peer: &Peer, request: &WatchMessagesRequest) -> thrift::Result<MessageWatch> {
        peer.identity.may_watch().and_then(|()| peer.identity.may_see_any()).map_err(denied)?;
        let WatchMessagesRequest { since, timeout_ms, limit, encoding } = *request;
        if since.is_some_and(|since| since < 0) {
            return Err(invalid("since", "a cursor is not below 0"));
        }
        Ok(MessageWatch { patience: self.patience(since, timeout_ms, limit)?, encoding: request::encoding(encoding)? })
    }

    /// Waits for the result of `watchMessages`.
    pub(super) async fn messages(
        &self,
        peer: &Peer,
        watch: &MessageWatch,
        stop: &Stop,
    ) -> thrift::Result<idl::MessagesReply> {
        let subscription = self.store.subscribe_to_messages();
        let changed = || subscription.changed();
        self.wait(peer, watch.patience, changed, stop, |since| Ok(self.messages_since(peer, watch, since))).await
    }

    fn messages_since(&self, peer: &Peer, watch: &MessageWatch, since: Revision) -> Found<idl::MessagesReply> {
        // Under the same rules as the master itself.
        let sees =
            |message: &MasterMessage| peer.identity.grant().sees_one_of(message.services.iter().map(String::as_str));
        let news = self.store.messages().since(since, watch.patience.limit, self.page_bytes() / GROWTH, sees);
        let mut missed = news.missed as i64;
        let mut messages = Vec::new();
        for message in &news.messages {
            match written(message, watch.encoding).filter(|written| written.len() <= self.max_reply() / 2) {
                Some(written) => messages.push(converted(message, written)),
                None => missed += 1,
            }
        }
        let is_news = news.is_reset || missed > 0 || !messages.is_empty();
        // A first cursor is useful immediately.
        let is_news = is_news || since == 0;
        let reply = idl::MessagesReply { messages, cursor: news.upto as i64, missed, reset: news.is_reset };
        Found { reply, is_news, is_all: true, revision: news.upto }
    }
}

/// None: it cannot be encoded this way.
fn written(message: &MasterMessage, encoding: Encoding) -> Option<Vec<u8>> {
    if encoding == Encoding::MsgPack {
        return Some(message.packed.clone());
    }
    let value = rmpv::decode::read_value(&mut message.packed.as_slice()).ok()?;
    encoding.write(&value).ok()
}

fn converted(message: &MasterMessage, written: Vec<u8>) -> idl::MasterMessage {
    idl::MasterMessage { master_id: message.master.clone(), received_at: message.received_at, message: written }
}

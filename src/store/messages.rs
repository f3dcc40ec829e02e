//! Messages: the commands that masters sent unprompted, of which the newest are kept for watchers.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};

use crate::sync::{Mutex, MutexGuard};

/// How many are kept, of one master and in all, and how many bytes of them.
const MAX_OF_MASTER: usize = 256;
const MAX_MESSAGES: usize = 1_024;
const MAX_BYTES: usize = 4 << 20;

/// What a message takes besides its texts and bytes, and the name of a service.
const MESSAGE_OVERHEAD: usize = 256;
const NAME_OVERHEAD: usize = 32;

/// A command that a master sent.
#[derive(Debug)]
pub struct MasterMessage {
    /// The id of the master.
    pub master: String,
    /// The names, without versions, of what it offered then: a client that sees one of them may see the message.
    pub services: Vec<String>,
    /// The user of the master, in words.
    pub user: String,
    /// When it arrived, ms since 1970.
    pub received_at: i64,
    /// The whole map, as MessagePack.
    pub packed: Vec<u8>,
}

/// The messages after a cursor.
#[derive(Debug)]
pub struct News {
    pub messages: Vec<Arc<MasterMessage>>,
    /// The next cursor.
    pub upto: u64,
    /// How many arrived between the two cursors and are no longer kept.
    pub missed: u64,
    /// Whether the cursor is not from this process: what was missed before is unknown.
    pub is_reset: bool,
}

/// The kept messages. No user takes the room of one that has taken less.
#[derive(Debug)]
pub struct Messages {
    kept: Mutex<Kept>,
    /// The counter for about the memory that they take.
    charged: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Kept {
    /// Ordered by number, which grows by one with each message, even one that is not kept.
    messages: VecDeque<(u64, Arc<MasterMessage>)>,
    users: HashMap<String, Held>,
    all: Held,
    /// The number before the first of this process.
    origin: u64,
    newest: u64,
}

/// How much is kept, of one user or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Held {
    messages: usize,
    bytes: usize,
}

impl MasterMessage {
    /// About how much memory it takes.
    fn memory_size(&self) -> usize {
        let names: usize = self.services.iter().map(|name| name.len() + NAME_OVERHEAD).sum();
        self.master.len() + self.user.len() + self.packed.len() + names + MESSAGE_OVERHEAD
    }
}

impl Messages {
    /// Numbers continue from `origin`, which is greater than those of the previous process.
    pub(super) fn new(origin: u64) -> Self {
        let (messages, users, all) = (VecDeque::new(), HashMap::new(), Held::default());
        let kept = Kept { messages, users, all, origin, newest: origin };
        Self { kept: Mutex::new(kept), charged: Arc::default() }
    }

    pub(super) fn push(&self, message: MasterMessage) {
        let mut kept = self.kept();
        let before = kept.all.bytes;
        kept.push(message);
        // Only add to the total: others use it too.
        self.charged.fetch_add(kept.all.bytes, Ordering::Relaxed);
        self.charged.fetch_sub(before, Ordering::Relaxed);
    }

    /// The visible messages after the cursor `since`: at most `limit`, and `bytes` of them unless one alone is larger.
    /// With the cursor 0 none have been seen, and none missed.
    pub fn since(&self, since: u64, limit: usize, bytes: usize, sees: impl Fn(&MasterMessage) -> bool) -> News {
        let kept = self.kept();
        let is_reset = since != 0 && !(kept.origin..=kept.newest).contains(&since);
        let from = if is_reset || since == 0 { kept.origin } else { since };
        let (mut messages, mut passed, mut size, mut upto) = (Vec::new(), 0, 0, kept.newest);
        let begin = kept.messages.partition_point(|(number, _)| *number <= from);
        for (number, message) in kept.messages.range(begin..) {
            if sees(message) {
                size += message.packed.len();
                if messages.len() == limit || size > bytes && !messages.is_empty() {
                    upto = *number - 1;
                    break;
                }
                messages.push(message.clone());
            }
            passed += 1;
        }
        let missed = if since == 0 { 0 } else { upto - from - passed };
        News { messages, upto, missed, is_reset }
    }

    /// The counter for the memory that they take; others may add to it as well.
    pub fn charged(&self) -> Arc<AtomicUsize> {
        self.charged.clone()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn push(&mut self, message: MasterMessage) {
        self.newest += 1;
        let bytes = message.memory_size();
        if bytes > MAX_BYTES {
            return;
        }
        let of_master = self.messages.iter().filter(|(_, kept)| kept.master == message.master);
        if of_master.count() >= MAX_OF_MASTER {
            self.forget_first(|kept| kept.master == message.master);
        }
        self.users.entry(message.user.clone()).or_default().add(bytes);
        self.all.add(bytes);
        self.messages.push_back((self.newest, Arc::new(message)));
        while self.all.messages > MAX_MESSAGES {
            self.forget_first_of(|held| held.messages);
        }
        while self.all.bytes > MAX_BYTES {
            self.forget_first_of(|held| held.bytes);
        }
    }

    /// Forgets the oldest message of the user with the most.
    fn forget_first_of(&mut self, most: impl Fn(&Held) -> usize) {
        let Some((user, _)) = self.users.iter().max_by_key(|(_, held)| most(held)) else { return };
        let user = user.clone();
        self.forget_first(|kept| kept.user == user);
    }

    fn forget_first(&mut self, is_it: impl Fn(&MasterMessage) -> bool) {
        let first = self.messages.iter().position(|(_, kept)| is_it(kept));
        let Some((_, message)) = first.and_then(|index| self.messages.remove(index)) else { return };
        let bytes = message.memory_size();
        self.all.subtract(bytes);
        if let Some(held) = self.users.get_mut(&message.user) {
            held.subtract(bytes);
            if held.messages == 0 {
                self.users.remove(&message.user);
            }
        }
    }
}

impl Held {
    fn add(&mut self, bytes: usize) {
        self.messages += 1;
        self.bytes += bytes;
    }

    fn subtract(&mut self, bytes: usize) {
        self.messages -= 1;
        self.bytes -= bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(user: &str, master: &str, bytes: usize) -> MasterMessage {
        let (user, master) = (user.to_owned(), master.to_owned());
        MasterMessage { master, services: vec!["mail".into()], user, received_at: 0, packed: vec![0; bytes] }
    }

    fn all(messages: &Messages, since: u64) -> News {
        messages.since(since, usize::MAX, usize::MAX, |_| true)
    }

    fn count_of(messages: &Messages, user: &str) -> usize {
        all(messages, 0).messages.iter().filter(|message| message.user == user).count()
    }

    #[test]
    fn what_came_after_a_cursor_is_reported_once_and_what_is_not_kept_is_counted() {
        let messages = Messages::new(1_000);
        let first = all(&messages, 0).upto;
        for _ in 0..MAX_OF_MASTER + 10 {
            messages.push(message("one", "chatty", 10));
        }
        messages.push(message("one", "quiet", 10));
        let news = all(&messages, first);
        assert_eq!((news.messages.len(), news.missed, news.is_reset), (MAX_OF_MASTER + 1, 10, false));
        assert!(all(&messages, news.upto).messages.is_empty());
        assert_eq!(all(&messages, 0).missed, 0, "who has seen none has missed none");
        let seen = messages.since(first, usize::MAX, usize::MAX, |message| message.master == "quiet");
        assert_eq!((seen.messages.len(), seen.missed, seen.upto), (1, 10, news.upto));
    }

    #[test]
    fn a_page_ends_before_what_it_has_no_room_for_and_the_next_one_begins_there() {
        let messages = Messages::new(1_000);
        (0..5).for_each(|_| messages.push(message("one", "m", 100)));
        let page = |since, limit, bytes| {
            let news = messages.since(since, limit, bytes, |_| true);
            (news.messages.len(), news.upto, news.missed)
        };
        assert_eq!(page(1_000, 2, usize::MAX), (2, 1_002, 0));
        assert_eq!(page(1_002, 9, 250), (2, 1_004, 0));
        assert_eq!(page(1_004, 9, 1), (1, 1_005, 0), "one alone has room");
    }

    #[test]
    fn a_cursor_of_another_process_is_a_reset() {
        let messages = Messages::new(1_000);
        messages.push(message("one", "m", 1));
        for since in [7, 2_000] {
            let news = all(&messages, since);
            assert!(news.is_reset && news.messages.len() == 1 && news.upto == 1_001, "{news:?}");
        }
        assert!(!all(&messages, 1_000).is_reset);
    }

    #[test]
    fn one_user_takes_no_room_of_another_who_has_less() {
        let messages = Messages::new(0);
        (0..300).for_each(|number| messages.push(message("quiet", &format!("q{}", number % 3), 100)));
        (0..5_000).for_each(|number| messages.push(message("flood", &format!("f{number}"), 100)));
        assert_eq!((count_of(&messages, "quiet"), count_of(&messages, "flood")), (300, MAX_MESSAGES - 300));
        (0..20).for_each(|number| messages.push(message("large", &format!("l{number}"), 1 << 20)));
        assert_eq!((count_of(&messages, "quiet"), count_of(&messages, "large")), (300, 3));
        let charged = messages.charged().load(Ordering::Relaxed);
        assert!((3 << 20..=MAX_BYTES).contains(&charged), "{charged}");
        let sum = all(&messages, 0).messages.iter().map(|message| message.memory_size()).sum::<usize>();
        assert_eq!(charged, sum);
        messages.push(message("large", "too large", MAX_BYTES));
        assert_eq!(count_of(&messages, "large"), 3, "what has no room in any case takes none of another");
    }
}

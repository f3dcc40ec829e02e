//! The ids of masters: while a master is connected, its id belongs to its user. Also generates ids.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use crate::net::User;

#[derive(Debug, Default)]
pub(super) struct Ids(Mutex<HashMap<String, Owner>>);

#[derive(Debug)]
struct Owner {
    user: User,
    claims: usize,
}

/// An id held by a connection, until dropped.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) id: String,
    ids: Arc<Ids>,
}

impl Ids {
    /// None: the id belongs to another user.
    pub(super) fn claim(self: &Arc<Self>, id: String, user: User) -> Option<Claim> {
        let mut owners = self.owners();
        let owner = owners.entry(id.clone()).or_insert(Owner { user, claims: 0 });
        if owner.user != user {
            return None;
        }
        owner.claims += 1;
        Some(Claim { id, ids: self.clone() })
    }

    /// Generates an id for a master without one, at a register of this name. It is random: others could claim one that
    /// they can predict.
    pub(super) fn claim_made(self: &Arc<Self>, register: &str, user: User) -> Claim {
        let draw = || self.claim(made(register, Uuid::new_v4().as_fields().0), user);
        std::iter::repeat_with(draw).flatten().next().expect("one of very many is free")
    }

    fn owners(&self) -> MutexGuard<'_, HashMap<String, Owner>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An id as a register of this name generates them.
pub(super) fn made(name: &str, number: u32) -> String {
    format!("{name}-{number}")
}

/// Whether an id looks generated, by a register or by `master.php` for its process. Such an id may change with a
/// restart; a chosen one stays.
pub(super) fn is_made(id: &str) -> bool {
    let is_hex = |text: &str, digits: usize| text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let by_register = id.split_once('-').is_some_and(|(name, number)| is_hex(name, 8) && number.parse::<u32>().is_ok());
    by_register || is_hex(id, 32)
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Entry::Occupied(mut owner) = self.ids.owners().entry(std::mem::take(&mut self.id)) {
            owner.get_mut().claims -= 1;
            if owner.get().claims == 0 {
                owner.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_of_one_user_until_its_last_connection_has_ended() {
        let ids = Arc::new(Ids::default());
        let [one, other] = [1, 2].map(User::Uid);
        let claim = |user| ids.claim("mail-1".into(), user);
        let claims = [claim(one).expect("free"), claim(one).expect("the same user")];
        assert!(claim(other).is_none());
        let [first, last] = claims;
        drop(first);
        assert!(claim(other).is_none());
        drop(last);
        assert!(claim(other).is_some());
        assert!(ids.owners().is_empty());
    }

    #[test]
    fn nobody_foresees_an_id_that_is_made() {
        let ids = Arc::new(Ids::default());
        let mut numbers = [1, 2, 3].map(|user| {
            let claim = ids.claim_made("0123abcd", User::Uid(user));
            assert!(is_made(&claim.id), "{}", claim.id);
            claim.id.rsplit_once('-').and_then(|(_, number)| number.parse::<u32>().ok()).expect("a number")
        });
        numbers.sort();
        assert!(numbers.windows(2).all(|pair| pair[1] - pair[0] > 1), "{numbers:?}");
    }
}

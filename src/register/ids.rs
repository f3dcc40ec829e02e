//! The ids of masters: as long as one is connected, its id is its user's.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::net::User;

#[derive(Debug, Default)]
pub(super) struct Ids(Mutex<HashMap<String, Owner>>);

#[derive(Debug)]
struct Owner {
    user: User,
    claims: usize,
}

/// An id that a connection has, until dropped.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) id: String,
    ids: Arc<Ids>,
}

impl Ids {
    /// None: the id is another user's.
    pub(super) fn claim(self: &Arc<Self>, id: String, user: User) -> Option<Claim> {
        let mut owners = self.owners();
        let owner = owners.entry(id.clone()).or_insert(Owner { user, claims: 0 });
        if owner.user != user {
            return None;
        }
        owner.claims += 1;
        Some(Claim { id, ids: self.clone() })
    }

    fn owners(&self) -> MutexGuard<'_, HashMap<String, Owner>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
}

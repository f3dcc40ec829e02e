//! Roots of `[[services]]` below which no node registers anything: that is legal, but may be a mistake.

use super::{Feed, Snapshot};

impl Snapshot {
    /// What there is to say of each root of a feed's services below which no node registers anything, or should. Of a root
    /// of the feed itself that is not there, its source says so.
    pub fn idle_roots<'a>(&'a self, feed: &'a Feed) -> impl Iterator<Item = String> + 'a {
        let idle = feed.services().iter().filter(|services| !self.directory().has_registrations(&services.root));
        idle.filter_map(|services| {
            let (root, format) = (&services.root, services.format.name());
            let has_nodes = self.subtree(root, root.clone()).any(|(path, _)| path != root);
            let is_told = self.node(root).is_none() && feed.roots().contains(root);
            match has_nodes {
                _ if self.directory().was_used(root) => Some(format!("nothing below {root} registers anything any more")),
                true => Some(format!(
                    "no node below {root} registers anything in the format `{format}`: is that the format, and this the \
                     root, of its services?"
                )),
                false => (!is_told).then(|| format!("nothing lies below {root}, the root of services in `{format}`")),
            }
        })
    }
}

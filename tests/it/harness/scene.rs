//! A scene: a ZooKeeper, a sidecar that mirrors it over a line of their own, and watchers of the sidecar.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::truth::difference;
use super::watcher::as_told;
use super::{Link, Roster, SOON, Server, Tree, Watcher, Zk, ensure, eventually};

/// Dropped from above: who asks, goes first.
#[derive(Debug)]
pub(crate) struct Scene {
    watchers: Vec<Watcher>,
    pub(crate) roster: Roster,
    /// Between the sidecar and ZooKeeper.
    pub(crate) link: Link,
    /// ZooKeeper as the sidecar sees it, but not over that line.
    pub(crate) zk: Zk,
    /// If it is not the shared one.
    server: Option<Server>,
}

impl Scene {
    /// On the shared ZooKeeper, below a chroot of its own, and in agreement.
    pub(crate) fn new() -> Self {
        let zk = fresh_chroot();
        let scene = Self::with(&zk, "");
        scene.agrees();
        scene
    }

    /// On the shared ZooKeeper, with more settings of `[[zookeeper]]`.
    pub(crate) fn with(zk: &Zk, settings: &str) -> Self {
        Self::set(None, zk.clone(), settings)
    }

    /// With a ZooKeeper of its own, which may be harmed, and more settings; in agreement.
    pub(crate) fn own(settings: &str) -> Self {
        let mut scene = Self::before_zookeeper(settings);
        scene.server().restart();
        scene.agrees();
        scene
    }

    /// With a ZooKeeper of its own that does not run yet.
    pub(crate) fn before_zookeeper(settings: &str) -> Self {
        let server = Server::prepare();
        let zk = server.zk();
        Self::set(Some(server), zk, settings)
    }

    fn set(server: Option<Server>, zk: Zk, settings: &str) -> Self {
        let (address, chroot) = zk.connect_string().split_once('/').unwrap_or((zk.connect_string(), ""));
        let link = Link::to(address.to_owned());
        let roster = Roster::start(&source(&format!("{}/{chroot}", link.address()), settings));
        // One is told all at once, the other little by little.
        let watchers = vec![roster.watcher(0), roster.watcher(3)];
        Self { watchers, roster, link, zk, server }
    }

    /// The same, where the truth is what this user may read.
    pub(crate) fn seen_by(self, identity: &str) -> Self {
        Self { zk: self.zk.identified(identity), ..self }
    }

    pub(crate) fn server(&mut self) -> &mut Server {
        self.server.as_mut().expect("a ZooKeeper of its own")
    }

    /// Waits until the sidecar and its watchers hold what ZooKeeper does.
    pub(crate) fn agrees(&self) {
        self.agrees_within(SOON, |_| true);
    }

    /// The same, of those paths that the sidecar should mirror.
    pub(crate) fn agrees_on(&self, mirrored: impl Fn(&str) -> bool) {
        self.agrees_within(SOON, mirrored);
    }

    pub(crate) fn agrees_within(&self, limit: Duration, mirrored: impl Fn(&str) -> bool) {
        eventually("all agree", limit, || {
            let mut truth = self.zk.read_all("/");
            truth.retain(|path, _| mirrored(path));
            let (mirror, freshness) = self.roster.tree().map_err(|error| format!("{error:?}"))?;
            difference("the mirror", &mirror, &truth)?;
            ensure(freshness.age_ms == 0, format!("the mirror is {} ms old", freshness.age_ms))?;
            let told: Tree = truth.into_iter().map(|(path, node)| (path, as_told(node))).collect();
            self.watchers.iter().try_for_each(|watcher| difference("a watcher", &watcher.seen().tree, &told))
        });
        for watcher in &self.watchers {
            assert_eq!(watcher.seen().wrong, None);
        }
    }

    /// Waits until the watchers know of the sidecar's revision. One that changed nothing for them they hear of when
    /// their watch has waited in vain; who asks after a restart since an earlier one has to read everything anew.
    pub(crate) fn watchers_are_at(&self, revision: i64) {
        eventually("the watchers know of the revision", SOON, || {
            let known: Vec<i64> = self.watchers.iter().map(|watcher| watcher.seen().revision).collect();
            ensure(known.iter().all(|known| *known >= revision), format!("{known:?} and not {revision}"))
        });
    }

    /// How often the watchers had to read everything anew.
    pub(crate) fn resets(&self) -> usize {
        self.watchers.iter().map(|watcher| watcher.seen().resets).sum()
    }
}

/// A chroot on the shared ZooKeeper that no other test has.
pub(crate) fn fresh_chroot() -> Zk {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let (zk, path) = (Server::shared().zk(), format!("/test-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
    zk.create(&path, "");
    zk.below(&path)
}

/// `[[zookeeper]]` for a connect string, and more settings.
pub(crate) fn source(connect: &str, settings: &str) -> String {
    let connect = connect.trim_end_matches('/');
    format!("[[zookeeper]]\nconnect = \"{connect}\"\nsession_timeout = \"2s\"\n{settings}\n")
}
